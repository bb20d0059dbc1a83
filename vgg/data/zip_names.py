"""Names in a zip as they were meant. Most zips don't say in which code page their names are.

A name is read by its UTF-8 flag or its Unicode path field where it has one. The rest of an archive
was written on one machine: that code page is taken in which all names together look most like
words, by how common their letters are in its language (`common_letters.toml`). A zip whose only
such name is one letter can still be misread, where another language has a common letter of the
same bytes.
"""

import math
import struct
import tomllib
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path

_UTF_8_FLAG = 0x800
_UNICODE_PATH = 0x7075  # an extra field
_ANY_BYTES = "cp437"  # what the format says, and zipfile reads; it has a sign for each byte
ENOUGH = 400  # names to judge by
_SURELY_UTF_8 = 5  # letters that are no ASCII
# Logarithms: how often a letter comes where no table says it,
_ASCII, _COMMON_SYLLABLE, _COMMON, _NORMAL, _PUNCTUATION, _RARE, _NEVER = (
    -3.0,
    -6.5,
    -7.2,
    -9.5,
    -9.0,
    -13.0,
    -18.0,
)
_CAPITAL = -2.0  # a capital more than its small letter,
_CAPITAL_INSIDE = -6.0  # and where it stands behind a small letter,
_ALONE = -6.0  # an accented letter without a plain one beside it,
_TWO_SCRIPTS = -6.0  # a plain letter beside one of another script,
_UNREADABLE = -12.0  # a byte that the code page does not have,
_BACKSLASH = -7.0  # which in some code pages is half of a letter,
_WINDOWS = -1.5  # a code page of Windows, whose own zips are in those of DOS,
_LONG_WORD = -2.0  # a word of an alphabet, where other scripts need one or two letters,
_UTF_8 = 1.5  # and each byte but the first of a letter in UTF-8: others seldom happen to be valid

_ALPHABETS = frozenset({"cp437", "cp850", "cp1252", "cp866", "cp1251"})

Language = Callable[[str], float]


def names_of(entries: Iterable[zipfile.ZipInfo]) -> list[str]:
    """The names of entries, in NFC; folders end in `/`, and are parted by `/` or `\\`."""
    names = [_told_name(entry) for entry in entries]
    # In no code page is a `/` a part of a letter, as `\` is in some.
    parts = {part: None for name in names if isinstance(name, bytes) for part in name.split(b"/")}
    page = code_page(islice((part for part in parts if not part.isascii()), ENOUGH))
    read = (_read(name, page) if isinstance(name, bytes) else name for name in names)
    return [unicodedata.normalize("NFC", name) for name in read]


def _told_name(entry: zipfile.ZipInfo) -> str | bytes:
    """A name, or its bytes where the zip does not say how to read them."""
    name = entry.orig_filename
    if entry.flag_bits & _UTF_8_FLAG or name.isascii():
        return name
    raw = name.encode(_ANY_BYTES)
    position = 0
    while position + 4 <= len(entry.extra):
        kind, length = struct.unpack_from("<2H", entry.extra, position)
        content = entry.extra[position + 4 : position + 4 + length]
        # The field is old where somebody has changed the name since.
        if kind == _UNICODE_PATH and content[:5] == struct.pack("<BI", 1, zlib.crc32(raw)):
            return content[5:].decode(errors="replace")
        position += 4 + length
    return raw


def _read(name: bytes, page: str) -> str:
    try:
        return name.decode(page)
    except UnicodeError:
        return name.decode(_ANY_BYTES)


def code_page(parts: Iterable[bytes]) -> str:
    """The code page in which these names of files and folders look most like words."""
    unclear = list(parts)
    with suppress(UnicodeDecodeError):  # so many letters are hardly valid by chance
        if sum(not x.isascii() for x in b"".join(unclear).decode()) >= _SURELY_UTF_8:
            return "utf-8"
    return max(_languages(), key=lambda page: sum(_likelihood(part, page) for part in unclear))


def _likelihood(part: bytes, page: str) -> float:
    try:
        text = part.decode(page)
    except UnicodeError:
        return _UNREADABLE * len(part)
    language = _languages()[page]
    total = _UTF_8 * (len(part) - len(text)) if page == "utf-8" else 0.0
    for before, letter, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        beside = _is_plain(before) or _is_plain(after)
        if letter.isascii():
            total += _BACKSLASH if letter == "\\" else _ASCII
        else:
            total += language(letter)
            if beside != (letter < "\u0300") and (beside or letter.isalpha()):
                total += _TWO_SCRIPTS if beside else _ALONE
        if letter.isupper() and before.islower():
            total += _CAPITAL_INSIDE
    total += _WINDOWS if page in ("cp1251", "cp1252") else 0
    return total + (_LONG_WORD if page in _ALPHABETS else 0)


def _is_plain(letter: str) -> bool:
    return letter.isascii() and letter.isalpha()


@cache
def _languages() -> dict[str, Language]:
    """How common a letter is, for each code page; of two that fit as well the first is taken."""
    tables = tomllib.loads(Path(__file__).with_name("common_letters.toml").read_text("utf-8"))
    simplified, traditional = frozenset(tables["simplified"]), frozenset(tables["traditional"])
    western = _alphabet(tables["latin"], -3.5)
    japanese = _ideographs(simplified | traditional, "cp932", range(0x88, 0x99))
    one_of = (
        western,
        _korean(tables["syllables"], tables["initials"], tables["medials"], tables["finals"]),
        japanese,
        _ideographs(simplified, "gb18030", range(0xB0, 0xD8)),
        _ideographs(traditional, "cp950", range(0xA4, 0xC7)),
        _alphabet(tables["cyrillic"], -2.5),
    )
    _, korean, _, chinese, taiwanese, russian = one_of
    return {
        "utf-8": lambda letter: max(language(letter) for language in one_of),
        "cp437": western,
        "cp850": western,
        "cp1252": western,
        "cp949": korean,
        "cp932": japanese,
        "gb18030": chinese,
        "cp950": taiwanese,
        "cp866": russian,
        "cp1251": russian,
    }


def _alphabet(letters: str, most: float) -> Language:
    """A language whose letters are given from the most common one on."""
    known = {letter: most - 0.08 * rank for rank, letter in enumerate(letters)}

    def likelihood(letter: str) -> float:
        if letter in known:
            return known[letter]
        small = known.get(letter.lower())
        return small + _CAPITAL if small else _other(letter)

    return likelihood


def _korean(common: str, initials: list[int], medials: list[int], finals: list[int]) -> Language:
    """Syllables: those that are not `common`, by how common their two or three letters are."""
    parts = [[math.log(n / sum(part)) for n in part] for part in (initials, medials, finals)]

    def likelihood(letter: str) -> float:
        if letter in common:
            return _COMMON_SYLLABLE
        place = ord(letter) - ord("가")
        if not 0 <= place < 19 * 21 * 28:
            return _other(letter)
        return parts[0][place // 588] + parts[1][place // 28 % 21] + parts[2][place % 28] - 2

    return likelihood


def _ideographs(common: frozenset[str], page: str, normal: range) -> Language:
    """Chinese and Japanese: `normal` are the first bytes of letters in everyday use."""

    def likelihood(letter: str) -> float:
        if letter in common:
            return _COMMON
        if page == "cp932" and ("ぁ" <= letter <= "ん" or "ァ" <= letter <= "ー" or letter == "々"):
            return -4.6
        raw = letter.encode(page, "ignore")
        return _NORMAL if len(raw) == 2 and raw[0] in normal else _other(letter)

    return likelihood


def _other(letter: str) -> float:
    if "\u3000" <= letter <= "\u303f" or "\uff01" <= letter <= "\uff5e":
        return _PUNCTUATION
    return _RARE if letter.isalpha() else _NEVER
