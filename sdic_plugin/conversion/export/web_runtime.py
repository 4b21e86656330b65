"""The files of ONNX Runtime Web that a site needs, which are too large to come with the package.

They are taken from a folder, from the cache, or out of the pinned npm package; whatever they come from, their digests
are checked.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path

from sdic_plugin.errors import READ_ERRORS, SDICError, shorten
from sdic_plugin.images.cache import cache_folder
from sdic_plugin.utils.files import replacing_file

RUNTIME_VERSION = "1.30.0"
PACKAGE_URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{RUNTIME_VERSION}.tgz"
PACKAGE_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Base64, as npm's lock files have it."""
LARGEST_PACKAGE = 100_000_000
TIMEOUT = 60

RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
"""SHA-256 by name: a module and a WebAssembly binary each for WebAssembly alone, and for WebGPU."""

RUNTIME_LICENSE = """\
MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software
and associated documentation files (the "Software"), to deal in the Software without
restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

GIVE_A_FOLDER = (
    f"give a folder that holds it with --runtime (on another machine: npm pack onnxruntime-web@{RUNTIME_VERSION}, and "
    "unpack the .tgz)"
)


def find_runtime(folder: str | Path | None = None) -> dict[str, bytes]:
    """Return the files of ONNX Runtime Web by name.

    Args:
        folder: Holds them, itself or in `dist` or `package/dist`, as npm's package does; None takes those of the
            cache, or else fetches the package (33 MB) from the npm registry, and keeps them there.

    Raises:
        SDICError: If they cannot be had, or are not those of `RUNTIME_VERSION`.
    """
    if folder is not None:
        return _from_folder(Path(folder))
    cached = cache_folder() / f"onnxruntime-web-{RUNTIME_VERSION}"
    if cached.is_dir():
        try:
            return _from_folder(cached)
        except SDICError:  # damaged, or from a download that broke off
            pass
    files = _unpack(_download())
    try:
        for name, content in files.items():
            with replacing_file(cached / name) as temporary:
                temporary.write_bytes(content)
    except OSError:  # a cache that cannot be written costs the next export a download
        pass
    return files


def _from_folder(folder: Path) -> dict[str, bytes]:
    places = [folder / part for part in ("", "dist", "package/dist")]
    place = next((each for each in places if (each / next(iter(RUNTIME_FILES))).is_file()), None)
    if place is None:
        raise SDICError(
            f"The folder {shorten(str(folder))} holds no ONNX Runtime Web: give one that has "
            f"{next(iter(RUNTIME_FILES))} in it or in its folder dist, as npm's package onnxruntime-web has."
        )
    files = {}
    for name, digest in RUNTIME_FILES.items():
        try:
            files[name] = (place / name).read_bytes()
        except OSError as error:
            raise SDICError(f"The file {name} of {shorten(str(folder))} cannot be read: {GIVE_A_FOLDER}.") from error
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise SDICError(
                f"The file {name} of {shorten(str(folder))} is not that of ONNX Runtime Web {RUNTIME_VERSION}, which "
                "the page was tested with: give a folder with this version, whole and unchanged."
            )
    return files


def _download() -> bytes:
    try:
        with urllib.request.urlopen(PACKAGE_URL, timeout=TIMEOUT) as response:
            content: bytes = response.read(LARGEST_PACKAGE)
    except (OSError, ValueError) as error:
        reason = shorten(str(getattr(error, "reason", error)))
        raise SDICError(
            f"ONNX Runtime Web {RUNTIME_VERSION} could not be fetched from registry.npmjs.org ({reason}): "
            f"{GIVE_A_FOLDER}."
        ) from error
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != PACKAGE_SHA512:
        raise SDICError(
            f"What registry.npmjs.org sent is not ONNX Runtime Web {RUNTIME_VERSION} (its digest differs), so it was "
            f"not used: try again, or {GIVE_A_FOLDER}."
        )
    return content


def _unpack(package: bytes) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(package)) as archive:
            for name in RUNTIME_FILES:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None  # its digest was checked, so what is in it is known
                files[name] = member.read()
    except READ_ERRORS as error:
        raise SDICError(f"The package of ONNX Runtime Web cannot be unpacked: {GIVE_A_FOLDER}.") from error
    return files
