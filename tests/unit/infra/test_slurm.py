"""The SLURM script without Ray: what other users of a node may try, and a node's share of memory."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "infra" / "slurm" / "ray.sbatch"
JOB = "4711"


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A submit folder, node's disk and environment; `ray` writes the address in `address` and waits."""
    for name in ("submit", "disk", "venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    programs = tmp_path / "venv" / "bin"
    # It starts with `-` where the script waits for all nodes.
    wait = 'for _ in $(seq 100); do grep -q -- --address "$SITE/ray.args" && exit 0; sleep 0.05; done; exit 1'
    program(programs, "python", f'#!/bin/sh\n[ "$1" != - ] || {{ {wait}; }}\nexec {sys.executable} "$@"\n')
    ray = """#!/usr/bin/env bash
    umask >>"$SITE/ray.umask"
    stat -c %a "$RAY_AUTH_TOKEN_PATH" >>"$SITE/token.mode"
    for word; do case $word in --temp-dir=*) temp=${word#*=} ;; esac; done
    stat -c '%a %n' "$temp" >>"$SITE/temp"
    echo "$*" >>"$SITE/ray.args"
    if [[ -n ${SLOW:-} && $(wc -l <"$SITE/ray.args") -le $SLOW ]]; then
      echo "Exception: The current node timed out during startup."
      exit 1
    fi
    [[ " $* " == *" --head "* ]] && cp "$SITE/address" "$temp/ray_current_cluster"
    exec sleep 20
    """
    program(programs, "ray", ray)
    program(programs, "scontrol", "#!/bin/sh\nprintf '127.0.0.1\\nlocalhost\\n'\n")
    srun = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
    program(programs, "srun", srun)
    (tmp_path / "address").write_text("127.0.0.1:6379")
    return tmp_path


def submit(site: Path, *verb: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a job of two nodes."""
    job = {
        "SITE": str(site),
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_SUBMIT_DIR": str(site / "submit"),
        "SLURM_CPUS_ON_NODE": "2",
        "RWSA_VENV": str(site / "venv"),
        "RWSA_START_SECONDS": "10",
    }
    for name in ("temp", "ray.args"):
        (site / name).unlink(missing_ok=True)
    return subprocess.run(
        ["bash", str(SCRIPT), *(verb or ("true",))],
        env={**os.environ, **job, **more},
        capture_output=True,
        text=True,
        umask=0o022,
        timeout=60,
    )


def token_of(site: Path) -> Path:
    return site / "submit" / "outputs" / "slurm" / JOB / "token"


def test_a_folder_that_others_made_is_not_used(site: Path) -> None:
    """The name that the script used to take, with an address that a shell would run."""
    disk = Path("/tmp", f"rwsa-{JOB}")
    disk.mkdir(mode=0o777)
    try:
        trap = f"x; cat $RAY_AUTH_TOKEN_PATH >{shlex.quote(str(site / 'stolen'))} #"
        (disk / "ray_current_cluster").write_text(trap)
        done = submit(site)
        assert done.returncode == 0, done.stderr
        assert [path.name for path in disk.iterdir()] == ["ray_current_cluster"]
    finally:
        (disk / "ray_current_cluster").unlink()
        disk.rmdir()
    assert not (site / "stolen").exists()
    temp = [line.split() for line in (site / "temp").read_text().splitlines()]
    assert [mode for mode, _ in temp] == ["700", "700"]
    assert len({path for _, path in temp}) == 2
    assert all(not Path(path).exists() for _, path in temp)


@pytest.mark.parametrize("address", ["x; touch $SITE/ran #", "$(touch $SITE/ran)", "--head:1"])
def test_an_address_that_is_none_is_refused_and_never_run(site: Path, address: str) -> None:
    (site / "address").write_text(address)
    done = submit(site, "touch", str(site / "ran"))
    assert done.returncode == 1
    assert "gave no address of the form HOST:PORT" in done.stderr
    assert not (site / "ran").exists()
    assert len((site / "ray.args").read_text().splitlines()) == 1, "no other node was started"


def test_the_token_is_in_no_argument_and_no_message_and_only_its_owner_can_read_it(site: Path) -> None:
    done = submit(site, "sh", "-c", 'cp "$RAY_AUTH_TOKEN_PATH" "$SITE/token"; umask; ps -eo args >"$SITE/ps"')
    assert done.returncode == 0, done.stderr
    token = (site / "token").read_text().strip()
    assert len(token) == 64
    assert token not in (site / "ps").read_text() + (site / "ray.args").read_text() + done.stderr
    assert "ray.args" not in done.stderr
    assert (site / "token.mode").read_text().split() == ["600", "600"]
    assert not token_of(site).exists()
    assert token_of(site).parent.stat().st_mode & 0o777 == 0o700
    assert done.stdout.split() == ["0022"], "the command's own files keep the user's mask"
    assert (site / "ray.umask").read_text().split() == ["0022", "0022"]


@pytest.mark.parametrize("planted", ["open", "link", "foreign", "file"])
def test_a_job_folder_that_others_made_or_may_write_to_is_refused(site: Path, planted: str) -> None:
    folder = token_of(site).parent
    folder.parent.mkdir(parents=True)
    if planted == "link":
        (site / "theirs").mkdir(mode=0o700)
        folder.symlink_to(site / "theirs")
    elif planted == "file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o700)
        if planted == "open":
            folder.chmod(0o770)
        else:
            if os.geteuid() != 0:
                pytest.skip("only root can give a folder to another user")
            os.chown(folder, 12345, 12345)
    done = submit(site)
    assert done.returncode == 2
    assert "is not a folder of yours with mode 700; remove it" in done.stderr
    assert not (site / "ray.args").exists()
    assert not token_of(site).exists()


def test_a_requeued_job_and_a_group_folder_are_served(site: Path) -> None:
    folder = token_of(site).parent
    folder.parent.mkdir(parents=True)
    folder.parent.chmod(0o2775)  # new folders inherit the group, and this bit
    assert submit(site).returncode == 0
    assert folder.stat().st_mode & 0o7777 == 0o2700
    assert submit(site).returncode == 0, "the same job again"


def test_a_long_or_missing_local_folder_falls_back_to_tmp(site: Path) -> None:
    """Ray's sockets would not fit below it."""
    long = site / ("d" * 60)
    long.mkdir()
    for folder in (str(long), "/nonexistent"):
        assert submit(site, SLURM_TMPDIR=folder).returncode == 0
        paths = [line.split()[1] for line in (site / "temp").read_text().splitlines()]
        assert len(paths) == 2
        assert all(path.startswith("/tmp/rwsa-") for path in paths)


@pytest.mark.parametrize(("attempts", "status"), [(2, 0), (3, 1)])
def test_a_slow_start_is_tried_three_times(site: Path, attempts: int, status: int) -> None:
    done = submit(site, SLOW=str(attempts))
    assert done.returncode == status
    heads = [line for line in (site / "ray.args").read_text().splitlines() if "--head" in line]
    assert len(heads) == 3
    assert "(attempt 2 of 3)" in done.stderr


def output_of(call: str, **environment: str) -> str:
    """What one of the script's functions prints."""
    functions = re.findall(r"^\w+\(\) \{$.*?^\}$", SCRIPT.read_text(), flags=re.M | re.S)
    assert len(functions) > 6
    done = subprocess.run(
        ["bash", "-euc", "\n".join([*functions, call])],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("environment", "mebibytes"),
    [
        ({}, 0),
        ({"SLURM_MEM_PER_NODE": "1500"}, 1500),
        ({"SLURM_MEM_PER_NODE": "0"}, 0),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "4"}, 2000),
        ({"SLURM_MEM_PER_CPU": "2G", "SLURM_CPUS_ON_NODE": "2"}, 4096),
        ({"SLURM_MEM_PER_NODE": "0", "SLURM_MEM_PER_CPU": "09", "SLURM_CPUS_ON_NODE": "2"}, 18),
        ({"SLURM_MEM_PER_CPU": "0", "SLURM_CPUS_ON_NODE": "4"}, 0),
        ({"SLURM_MEM_PER_GPU": "3000", "SLURM_GPUS_ON_NODE": "2"}, 6000),
        ({"SLURM_MEM_PER_GPU": "3000"}, 0),
        ({"SLURM_MEM_PER_NODE": "$(id)"}, 0),
    ],
)
def test_the_share_of_memory_per_node_cpu_or_gpu(environment: dict[str, str], mebibytes: int) -> None:
    assert output_of("memory_share /nonexistent", **environment) == str(mebibytes)


@pytest.mark.parametrize("version", [1, 2])
def test_the_share_of_memory_of_a_control_group(tmp_path: Path, version: int) -> None:
    """SLURM puts the limit on a group above that of the step."""
    line, top, name = [("4:cpu,memory:", "memory", "memory.limit_in_bytes"), ("0::", "", "memory.max")][
        version - 1
    ]
    step = tmp_path / top / "slurm" / "job" / "step"
    step.mkdir(parents=True)
    none = {1: str(2**63 - 4096), 2: "max"}[version]
    for folder, limit in ((step, none), (step.parent, str(700 * 2**20)), (step.parent.parent, none)):
        (folder / name).write_text(f"{limit}\n")
    (tmp_path / "groups").write_text(f"9:name=systemd:/x\n{line}/slurm/job/step\n")
    call = f"memory_share {shlex.quote(str(tmp_path / 'groups'))} {shlex.quote(str(tmp_path))}"
    assert output_of(call) == "700"
    assert output_of(call, SLURM_MEM_PER_NODE="500") == "500"
    assert output_of(call, SLURM_MEM_PER_CPU="500", SLURM_CPUS_ON_NODE="2") == "700"


@pytest.mark.parametrize(
    ("free", "share", "store"), [(100_000, 1500, 450), (200, 1500, 160), (64, 1500, 450), (9999, 90, 80)]
)
def test_the_object_store_fits_the_shared_memory(tmp_path: Path, free: int, share: int, store: int) -> None:
    program(tmp_path, "df", f"#!/bin/sh\nprintf 'Avail\\n {free}\\n'\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert output_of(f"object_store_share {share}", PATH=path) == str(store)
