"""Command line: `rwsa enhance | score | info`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from rwsa import machine, process
from rwsa.command_line import OK, SOME_FAILED, path_argument, report, text_argument, verb
from rwsa.constants import DEFAULT_CROSSFADE
from rwsa.errors import InputError

if TYPE_CHECKING:
    import torch

    from rwsa.models import Network

PIPE = Path("-")
# Without one of them no GPU can be used: NVIDIA's driver, that of Windows in WSL, AMD's.
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")

# Heading to field of `rwsa.models.cost.Cost`.
_COSTS = {
    "total": "total",
    "conv": "convolutions",
    "deform": "deformable",
    "linear": "projections",
    "scan": "scans",
    "attend": "attention",
    "paper": "published",
}
_COST_LEGEND = """\
From total on: 10⁹ multiply-accumulates per segment (frames × bins). total is the sum of the next five,
without norms and activations; scan includes the cells of mLSTM and LSTM. paper is the count of the paper's
table (by thop): convolutions, norms, PReLU, and of Mamba only convolution, x_proj and out_proj; no scans, no
attention. lstm_senet is a reconstruction: no code of LSTM-SENet was published."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    enhance = verbs.add_parser("enhance", help="remove noise from files, folders or a pipe")
    enhance.set_defaults(verb=_enhance)
    enhance.add_argument(
        "inputs",
        nargs="+",
        type=_input,
        metavar="FILE_OR_FOLDER",
        help="recordings to enhance; - alone reads stdin to its end and writes to stdout",
    )
    enhance.add_argument(
        "--out",
        type=path_argument,
        metavar="FOLDER",
        help="where to write; folders keep their structure (default: beside each input, NAME-enhanced)",
    )
    model = enhance.add_mutually_exclusive_group()
    model.add_argument(
        "--weights",
        type=text_argument,
        help="trained weights: safetensors of this project, published weights, or the name of weights that"
        " come with the package, see rwsa info (default: the first of these)",
    )
    model.add_argument(
        "--untrained", metavar="SIZE", help="random weights of a named size, for trying things out"
    )
    enhance.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if available)"
    )
    enhance.add_argument(
        "--crossfade",
        type=float,
        default=DEFAULT_CROSSFADE,
        metavar="SHARE",
        help=f"overlap of segments, as a share of a segment (default: {DEFAULT_CROSSFADE})",
    )
    enhance.add_argument(
        "--batch-size", type=int, default=4, metavar="N", help="segments enhanced at once (default: 4)"
    )
    enhance.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes (default: one per core, fewer for less than a minute of audio each); outputs are the"
        " same for any number",
    )
    enhance.add_argument("--strict", action="store_true", help="stop at the first unreadable file")
    score = verbs.add_parser("score", help="score enhanced files against clean files of the same names")
    score.set_defaults(verb=_score)
    score.add_argument("--clean", type=path_argument, required=True, metavar="FOLDER", help="clean files")
    score.add_argument(
        "--enhanced", type=path_argument, required=True, metavar="FOLDER", help="files to score"
    )
    score.add_argument(
        "--json", type=text_argument, metavar="FILE", help="also write the scores of every clip here"
    )
    score.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="default: pesq ssnr estoi si_sdr csig cbak covl; also stoi lsd pesq_nb; with the extra"
        " rwsa[dnsmos] dnsmos_sig dnsmos_bak dnsmos_ovrl dnsmos_p808; with rwsa[phones] phone_error",
    )
    score.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    score.add_argument("--strict", action="store_true", help="stop at the first unreadable file")
    score.add_argument(
        "--trim",
        action="store_true",
        help="score clips of different lengths too: cut the end of the longer one, and list them",
    )
    info = verbs.add_parser("info", help="show what is installed, the scan backend, and the models' cost")
    info.set_defaults(verb=_info)
    info.add_argument(
        "--weights", type=text_argument, help="describe these weights, a file or shipped ones by name"
    )


@verb(
    "rwsa",
    "Speech enhancement with RWSA-MambaUNet.",
    _arguments,
    failure="some files failed",
    interrupted="files already written are complete",
)
def main(arguments: argparse.Namespace) -> int:
    """Run one command; returns the exit status."""
    machine.repair_environment()
    process.prepare()
    status: int = arguments.verb(arguments)
    return status


def _input(text: str) -> Path:
    """A recording's path; `./-` is a file of that name, which `Path` would make the pipe's `-`."""
    path = path_argument(text)
    return path.absolute() if path == PIPE and text != str(PIPE) else path


def _enhance(arguments: argparse.Namespace) -> int:
    piped = PIPE in arguments.inputs
    if piped and (len(arguments.inputs) > 1 or arguments.out not in (None, PIPE)):
        raise InputError("- enhances stdin to stdout; give it alone and without --out")
    if not piped and arguments.out == PIPE:
        raise InputError("--out: give a folder to write to; only stdin (-) goes to stdout")
    from rwsa.training.memory import explain_out_of_memory

    with explain_out_of_memory("lower --batch-size, or use --device cpu"):
        return _enhance_pipe(arguments) if piped else _enhance_files(arguments)


def _enhance_pipe(arguments: argparse.Namespace) -> int:
    from rwsa.enhancement.files import enhance_stream

    streams = {"stdin": (sys.stdin, "pipe in audio"), "stdout": (sys.stdout, "redirect it to a file")}
    for name, (stream, remedy) in streams.items():
        if stream is None or stream.isatty():
            raise InputError(f"{name} is {'closed' if stream is None else 'a terminal'}; {remedy}")
    model = _model(arguments)
    # A separate writer, so that a closed pipe raises here and not at exit.
    with os.fdopen(sys.stdout.fileno(), "wb", closefd=False) as sink:
        enhance_stream(
            sys.stdin.buffer,
            sink,
            model,
            crossfade=arguments.crossfade,
            batch_size=arguments.batch_size,
        )
    return 0


def _enhance_files(arguments: argparse.Namespace) -> int:
    from rwsa.enhancement.files import beside, enhance_files, output_folders
    from rwsa.lease import exclusive_lock, name_of

    folders = output_folders(arguments.inputs, arguments.out)
    model = _model(arguments)
    # Others may enhance other files into the same folder.
    name = name_of([path.absolute() for path in arguments.inputs])
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(exclusive_lock(folder, name=name))
        failures = enhance_files(
            arguments.inputs,
            arguments.out,
            model,
            crossfade=arguments.crossfade,
            batch_size=arguments.batch_size,
            strict=arguments.strict,
            workers=arguments.workers,
        )
    for failure in failures:
        report(f"skipped: {failure}")
    if failures:
        print(f"{len(failures)} file(s) skipped", file=sys.stderr)
    if arguments.out is None:
        for path in filter(Path.exists, map(beside, arguments.inputs)):
            report(str(path))
    return SOME_FAILED if failures else OK


def _model(arguments: argparse.Namespace) -> Network:
    import torch

    from rwsa.models import build_model, load_model

    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: cannot be used ({str(error).splitlines()[0]})") from error
    if arguments.untrained is not None:
        return build_model(arguments.untrained).to(name).eval()
    return load_model(arguments.weights, device=name)


def _score(arguments: argparse.Namespace) -> int:
    from rwsa.files import location, write_json
    from rwsa.folder_scores import FOLDER_METRICS, format_table, score_folders
    from rwsa.lease import exclusive_lock

    path = None if arguments.json is None else location(arguments.json)
    scores = score_folders(
        arguments.clean,
        arguments.enhanced,
        metrics=arguments.metrics or FOLDER_METRICS,
        workers=arguments.workers,
        strict=arguments.strict,
        trim=arguments.trim,
    )
    # Print first: an unwritable --json file must not lose the table.
    print(format_table(scores), flush=True)
    if path is not None:
        with exclusive_lock(path, inside=False):
            write_json(path, scores.as_json())
    return SOME_FAILED if scores.failures else OK


def _info(arguments: argparse.Namespace) -> int:
    from importlib.metadata import version

    from rwsa.kernels.scan import choose_backend, missing_backends
    from rwsa.shipped import SUFFIX, description, shipped_file, shipped_names
    from rwsa.size_rows import SIZE_ROWS

    device = _device()
    print(f"rwsa {version('rwsa')} · Python {platform.python_version()} · torch {version('torch')}")
    print(f"device {device.type} · {os.cpu_count()} cores")
    print(f"scan   {choose_backend(device)}")
    for name, reason in missing_backends(device).items():
        print(f"       not {name}: {reason}")
    print(_application())
    files: Mapping[str, Path] = {}
    if arguments.weights is None:
        rows, files = SIZE_ROWS, {name: shipped_file(name) for name in shipped_names()}
    elif arguments.weights in SIZE_ROWS:
        rows = {arguments.weights: SIZE_ROWS[arguments.weights]}
    else:
        from rwsa.models import load_model, weights_file

        rows = {arguments.weights: cost_row(load_model(arguments.weights))}
        path = weights_file(arguments.weights)
        files = {arguments.weights: path} if isinstance(path, Path) and path.suffix == SUFFIX else {}
    for name, file in files.items():
        print(f"{name}{' (default)' if arguments.weights is None and name == next(iter(files)) else ''}")
        print("\n".join(f"       {line}" for line in description(file)))
    print(_cost_table(rows))
    return 0


def _device() -> torch.device:
    """The device that `auto` means; torch is asked (imported, which is slow) only where a GPU may be."""
    if sys.platform != "win32" and not any(Path(name).exists() for name in _GPU_DRIVERS):
        return cast("torch.device", SimpleNamespace(type="cpu"))
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _application() -> str:
    """Where the commands of pipelines and tune are: in a checkout or the image, not in the wheel."""
    for folder in (Path(__file__).resolve().parents[1], *map(Path, sys.path)):
        if (folder / "pipelines" / "train.py").is_file():
            return f"app    python -m pipelines.COMMAND and python -m tune.COMMAND, in {folder}"
    return (
        "app    not installed: training, evaluation and sweeps run from a checkout"
        " (python -m pipelines.COMMAND, python -m tune.COMMAND)"
    )


def _cost_table(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    headings = " ".join(f"{heading:>6}" for heading in _COSTS)
    lines = [f"{name:{width}} {row}" for name, row in rows.items()]
    return "\n".join([f"{'':{width}} parameters segment {headings}", *lines, _COST_LEGEND])


def cost_row(model: Network) -> str:
    """The columns of `rwsa info` for a model; `rwsa.size_rows` holds those of the named sizes."""
    from rwsa.models.cost import cost

    config, costs = model.config, cost(model)
    count = sum(p.numel() for p in model.parameters())
    segment = f"{config.segment_frames}×{config.spectral.bins}"
    giga = " ".join(f"{getattr(costs, field) / 1e9:6.2f}" for field in _COSTS.values())
    return f"{count:10,} {segment:>7} {giga}  {config.summary}"


if __name__ == "__main__":
    raise SystemExit(main())
