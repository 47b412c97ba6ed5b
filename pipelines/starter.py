"""Download the starter corpus: real voices from Debian's Asterisk prompts, with generated noise.

`python -m pipelines.starter --out outputs/starter` needs apt and a network, but neither root nor a
previous `apt-get update`. The cards starter*.yaml describe the folder that it creates:

    speech/VOICE/PROMPT.flac           prompts of at least 2.5 s, 16 kHz, as decoded from G.722
    noise/SPLIT/KIND/KIND_SPLIT_NN.flac
    licences/PACKAGE.txt               Debian's copyright file of each package
    starter.json                       packages, voices, seconds, seed
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from pipelines.core.cli import verb
from pipelines.core.progress import tracked
from rwsa.audio import write_audio
from rwsa.command_line import path_argument
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.files import atomic_write, read_json, write_json
from rwsa.lease import locked
from rwsa.mixing.noises import COLOURS, babble, coloured, long_term_power, mains_hum, speech_shaped

MIN_CLIP_SECONDS = 2.5
VERSION = 1
PACKAGES = tuple(f"asterisk-core-sounds-{language}-g722" for language in ("en", "es", "fr", "it", "ru"))

# Files without speech: silence, tones, and a recording of monkeys.
_NO_SPEECH = re.compile(r"(^|/)(silence/|beep|ascending-|descending-|tt-monkeys\.)")
_MIN_WORD_SECONDS = 0.25
_NOISE_SECONDS = 20
_SEED = 20_260_101
# Babble and the spectrum of speech-shaped noise come from prompts that are too short to be targets. The voice
# is never a target of the same split, except in train, where Allison is the only voice: her Spanish prompts
# at other speeds replace other speakers. No voice of a test target is in any training noise.
_TALKERS = {"train": "es_MX_f_Allison", "valid": "en_US_f_Allison", "test": "ru_RU_f_IvrvoiceRU"}
# Split -> kind -> number of files. `unseen` has the kinds that only starter-noises uses.
_NOISES = {
    "train": {"babble": 24, "speech_shaped": 8, "pink": 8, "brown": 8},
    "valid": {"babble": 6, "speech_shaped": 2, "pink": 2, "brown": 2},
    "test": {"babble": 6, "speech_shaped": 2, "pink": 2, "brown": 2},
    "unseen": {"white": 4, "blue": 4, "hum": 4},
}
_REMEDY = (
    "set RWSA_DATA to a folder of recordings (see datasets/README.md), use a corpus card of your own, or "
    "run this on a machine with apt and access to a Debian mirror"
)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One decoded prompt of a voice: `wav` is int16 `[samples]` at 16 kHz."""

    voice: str
    name: str
    wav: np.ndarray

    @property
    def is_target(self) -> bool:
        return len(self.wav) >= MIN_CLIP_SECONDS * SAMPLE_RATE_HZ

    @property
    def is_short(self) -> bool:
        """Whether it is too short for a target but long enough for babble (some prompts are empty)."""
        return _MIN_WORD_SECONDS * SAMPLE_RATE_HZ <= len(self.wav) < MIN_CLIP_SECONDS * SAMPLE_RATE_HZ


@locked("out", inside=False)
def fetch_starter(out: Path) -> Path:
    """Create the starter corpus at `out`, unless it exists; returns `out`.

    The folder is created atomically, so an interrupted run starts again from the beginning. The same packages
    and versions of numpy, soxr, FFmpeg and libsndfile on one CPU family give the same bytes.

    Raises:
        InputError: apt-get or the network is missing, `out` contains something else, or cannot be written.
    """
    if (out / "starter.json").is_file():
        if read_json(out / "starter.json").get("version") == VERSION:
            return out
        raise InputError(
            f"{out}: contains a starter corpus of another version; remove the folder and try again"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not a starter corpus; choose another --out")
    with tempfile.TemporaryDirectory(prefix="rwsa-starter-") as temporary, atomic_write(out) as folder:
        packages = download_packages(Path(temporary))
        sounds = unpack_packages(packages, Path(temporary) / "unpacked")
        build_starter(sounds, folder)
        for package in packages:
            name = package.name.partition("_")[0]
            copyright_file = Path(temporary) / "unpacked/usr/share/doc" / name / "copyright"
            (folder / "licences").mkdir(exist_ok=True)
            shutil.copyfile(copyright_file, folder / "licences" / f"{name}.txt")
        facts = read_json(folder / "starter.json") | {"packages": [package.name for package in packages]}
        write_json(folder / "starter.json", facts)
    return out


def download_packages(folder: Path) -> list[Path]:
    """Download `PACKAGES` with apt's lists and caches below `folder`, which needs no root.

    apt checks the signatures. Errors of other package sources are ignored if the downloads succeed.

    Raises:
        InputError: apt-get is missing or fails; the message has apt's last errors.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InputError(f"the starter corpus needs apt-get and dpkg-deb, which are not installed; {_REMEDY}")
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (folder / name).mkdir(parents=True)
    options = [f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}/cache", "Acquire::Languages=none"]
    options += ["Acquire::Retries=2", "Acquire::http::Timeout=20", "Acquire::https::Timeout=20"]
    if os.geteuid() == 0:
        # The folder is private to root, so apt's own download user could not write there.
        options.append("APT::Sandbox::User=root")
    apt = ["apt-get", "-q", *(part for option in options for part in ("-o", option))]
    _report("downloading the package lists")
    update = _run([*apt, "update"], folder)
    errors = update.stderr
    for number, package in enumerate(PACKAGES, start=1):
        _report(f"downloading {package} ({number} of {len(PACKAGES)}, about 11 MB)")
        download = _run([*apt, "download", package], folder / "packages")
        errors += download.stderr
        if download.returncode != 0:
            reasons = [line for line in errors.splitlines() if line.startswith(("E:", "W:"))][-3:]
            raise InputError(f"{package}: apt-get cannot download it ({' '.join(reasons)}); {_REMEDY}")
    return sorted((folder / "packages").glob("*.deb"))


def unpack_packages(packages: list[Path], folder: Path) -> Path:
    """Unpack Debian packages; returns the folder with one folder of prompts per voice.

    Raises:
        InputError: dpkg-deb fails (a damaged package, a full disk).
    """
    folder.mkdir()
    for package in packages:
        unpacked = _run(["dpkg-deb", "-x", str(package), str(folder)], folder)
        if unpacked.returncode != 0:
            raise InputError(f"{package}: cannot be unpacked ({unpacked.stderr.strip()}); try again")
    return folder / "usr/share/asterisk/sounds"


def build_starter(sounds: Path, out: Path) -> None:
    """Build the starter corpus (without licences) at `out` from a folder `VOICE/PROMPT.g722`.

    Raises:
        InputError: a prompt cannot be decoded, or `out` cannot be written.
    """
    paths = [
        (path, path.relative_to(sounds))
        for path in sorted(sounds.rglob("*.g722"))
        if not _NO_SPEECH.search("/".join(path.relative_to(sounds).parts[1:]))
    ]
    prompts = [
        Prompt(voice=below.parts[0], name="_".join(below.with_suffix("").parts[1:]), wav=decode_g722(path))
        for path, below in tracked(paths, "decode", "prompts", _report)
    ]
    targets = [prompt for prompt in prompts if prompt.is_target]
    for prompt in tracked(targets, "write speech", "clips", _report):
        path = out / "speech" / prompt.voice / f"{prompt.name}.flac"
        write_audio(path, prompt.wav, SAMPLE_RATE_HZ, subtype="PCM_16")
    write_noises(prompts, out / "noise")
    write_json(
        out / "starter.json",
        {
            "version": VERSION,
            "seed": _SEED,
            "noise_clips": _NOISES,
            "noise_seconds": _NOISE_SECONDS,
            "voices": {voice: _totals(targets, voice) for voice in sorted({p.voice for p in targets})},
        },
    )


def write_noises(prompts: list[Prompt], out: Path) -> None:
    """Generate all noise files; each has its own random generator, so their order does not matter."""
    short = {
        split: [p.wav / np.float32(32768) for p in prompts if p.voice == voice and p.is_short]
        for split, voice in _TALKERS.items()
    }
    jobs = [
        (split, kind, number)
        for split, kinds in _NOISES.items()
        for kind, count in kinds.items()
        for number in range(count)
    ]
    for split, kind, number in tracked(jobs, "make noise", "clips", _report):
        name = f"{kind}_{split}_{number:02d}"
        rng = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
        wav = _noise(rng, kind, short.get(split, []))
        write_audio(out / split / kind / f"{name}.flac", wav, SAMPLE_RATE_HZ, subtype="PCM_16")


def decode_g722(path: Path) -> np.ndarray:
    """Decode a raw G.722 file (ITU-T G.722, 64 kbit/s) to int16 `[samples]` at 16 kHz.

    Raises:
        InputError: FFmpeg cannot decode it.
    """
    try:
        with av.open(str(path), format="g722") as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: cannot be decoded as G.722 ({error.strerror})") from error
    return np.concatenate(frames) if frames else np.zeros(0, np.int16)


def _noise(rng: np.random.Generator, kind: str, talkers: list[np.ndarray]) -> np.ndarray:
    samples = _NOISE_SECONDS * SAMPLE_RATE_HZ
    if kind == "babble":
        return babble(rng, samples, SAMPLE_RATE_HZ, talkers)
    if kind == "speech_shaped":
        return speech_shaped(rng, samples, SAMPLE_RATE_HZ, long_term_power(talkers))
    if kind == "hum":
        return mains_hum(rng, samples, SAMPLE_RATE_HZ)
    if kind in COLOURS:
        return coloured(rng, samples, SAMPLE_RATE_HZ, kind)
    raise ValueError(f"unknown noise kind '{kind}'")


def _totals(prompts: list[Prompt], voice: str) -> dict[str, float]:
    lengths = [len(prompt.wav) for prompt in prompts if prompt.voice == voice]
    return {"clips": len(lengths), "seconds": round(sum(lengths) / SAMPLE_RATE_HZ, 1)}


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # In English, because its last lines become part of our error message.
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _report(message: str) -> None:
    print(f"starter: {message}", file=sys.stderr, flush=True)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=path_argument,
        default=Path(os.environ.get("RWSA_STARTER") or "outputs/starter"),
        metavar="FOLDER",
        help="folder to write (default: RWSA_STARTER, else outputs/starter)",
    )


@verb("pipelines.starter", __doc__, _arguments)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    print(fetch_starter(options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
