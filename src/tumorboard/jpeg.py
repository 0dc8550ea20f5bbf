"""What neither OpenCV nor Pillow tells of a JPEG: that its header alone proves it grey."""

_SEQUENTIAL = (0xC0, 0xC1)  # frames with Huffman codes whose one scan may hold everything
_JFIF, _TABLES, _SCAN = 0xE0, 0xC4, 0xDA
_LENGTH = 2  # bytes of a segment's length, which counts itself


def is_surely_grey(content: bytes) -> bool:
    """Whether the Huffman tables of both chroma channels hold no symbol but 0 (ITU-T T.81, B.2.4.2 and F.1.2).

    A picture without color that was saved in color with optimised tables is like that: nothing but "no difference" and
    "no further coefficient" can follow, so that its chroma is neutral throughout, and its brightness, which is decoded
    faster, is all there is. False where the header does not prove it, which says nothing.
    """
    tables: dict[int, bytes] = {}
    components: list[int] = []
    is_ycc = False
    position = 2
    while position + 2 + _LENGTH <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        start = position + 2 + _LENGTH
        position += 2 + int.from_bytes(content[position + 2 : start])
        segment = content[start:position]
        if marker == _JFIF and segment.startswith(b"JFIF\0"):
            is_ycc = True  # as JFIF demands; of others the color space would be a guess
        elif marker in _SEQUENTIAL:
            components = list(segment[6:15:3])
        elif marker == _TABLES:
            tables |= _read_tables(segment)
        elif marker == _SCAN:
            chosen = dict(zip(segment[1::2], segment[2::2], strict=False))
            used = [table for component in components[1:] for table in _tables_of(chosen.get(component, 0))]
            all_at_once = len(components) == 3 and segment.startswith(b"\3")
            return is_ycc and all_at_once and all(tables.get(table) == b"\0" for table in used)
    return False


def _read_tables(segment: bytes) -> dict[int, bytes]:
    """The symbols of Huffman tables by class (1 in the upper half of a byte: AC) and number."""
    tables = {}
    while len(segment) > 17:
        end = 17 + sum(segment[1:17])
        tables[segment[0]] = segment[17:end]
        segment = segment[end:]
    return tables


def _tables_of(choice: int) -> tuple[int, int]:
    """The DC and the AC table that a component of a scan chose."""
    return choice >> 4, 0x10 | choice & 0x0F
