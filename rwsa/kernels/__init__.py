"""The model's inner operations, in torch for any device and compiled where that is faster.

- `scan.py`: the selective scan of Mamba-1 and the choice of its backend: `scan_reference.py` (a torch loop,
  the definition), `scan_cpu.py` with `scan_loops.py` (numba), `scan_triton.py` with
  `scan_triton_kernels.py` (GPU), `scan_mamba_ssm.py` (the mamba-ssm package's CUDA kernel).
- `mixer.py`: RMSNorm, Mamba mixer and residual; on a CPU `mixer_loops.py` and `mixer_loops_backward.py`.
- `attention.py`: axial self-attention; on a CPU `attention_loops.py`.
- `deformable.py`: depthwise deformable convolution; on a CPU `deformable_loops.py`.

`*_loops.py` are numba kernels over flat float32 arrays. They share `simd.py` (a 16-float vector type),
`layout.py` (tensors as flat, padded arrays), `threads.py` (work split among threads) and `dispatch.py`
(compiled or torch).
"""
