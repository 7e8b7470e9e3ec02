"""What a file's first bytes and its container say of it, without a decoder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

BOXES = [name.encode() for name in "ftyp moov mdat moof mfra sidx styp free skip wide udta uuid meta emsg prft".split()]


def is_animated(path: Path) -> bool | None:
    """Whether a WebP, APNG or AVIF says that it moves; None where it is none of them, or cannot be read."""
    head = b""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(21)
    if head[:4] == b"RIFF" and head[8:11] == b"WEB":
        return head[12:16] == b"VP8X" and bool(head[20:21] and head[20] & 2)
    if head[4:8] == b"ftyp":
        return head[8:12] == b"avis"
    return path.suffix.lower() == ".apng" if head[:4] == b"\x89PNG" else None


def cut_short(path: Path) -> bool:
    """Whether a file ends before its container says that it does.

    By the boxes of MP4 (ISO/IEC 14496-12), the RIFF chunk of AVI, the segment of Matroska and WebM (RFC 8794), where
    they say, and the blocks of GIF.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            says = int.from_bytes(head[4:8], "little")
            return says != 2**32 - 1 and 8 + says > size
        if head[:4] == b"\x1a\x45\xdf\xa3":
            at, header = _vint(head, 4)
            if header is None or head[at + header : at + header + 4] != b"\x18\x53\x80\x67":
                return False
            at, segment = _vint(head, at + header + 4)
            return segment is not None and at + segment > size
        if head[:4] == b"GIF8":
            return _gif_is_cut_short(head + file.read())
        at = 0
        while head[4:8] == b"ftyp" and at + 8 <= size:
            file.seek(at)
            box = file.read(16)
            length = int.from_bytes(box[:4], "big")
            if length == 1:
                length = int.from_bytes(box[8:], "big")
            if length < 8 or box[4:8] not in BOXES:  # to the end of the file, or something after the boxes
                return False
            at += length
        return at > size


def _gif_is_cut_short(data: bytes) -> bool:
    def colours(flags: int) -> int:
        return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0

    try:
        at = 13 + colours(data[10])
        while at < len(data) and data[at] in (0x21, 0x2C):  # an extension, an image
            at += 2 if data[at] == 0x21 else 11 + colours(data[at + 9])
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        return True
    return False


def _vint(data: bytes, at: int) -> tuple[int, int | None]:
    """Where a length of EBML ends, and what it is; None where it is unknown."""
    length = 9 - data[at].bit_length() if at < len(data) and data[at] else 8
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return at + length, None if value == (1 << 7 * length) - 1 else value
