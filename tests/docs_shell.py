"""How a block of commands is run by a test: what is replaced in it, and what the shell of the test adds to it."""

from typing import NamedTuple


class Run(NamedTuple):
    """A block that is run."""

    page: str
    begin: str  # beginning of its first line
    replaced: dict[str, str] = {}  # noqa: RUF012 - never changed; texts of the block and what is run instead
    before: str = ""  # commands that prepare it, whose results the page takes for granted
    goes_on: bool = False  # the next block is run by the same shell, with its variables and what it has started


# Until no experiment waits or runs; one that failed fails the block.
WAIT = "while dvc queue status | grep -E 'Queued|Running'; do sleep 2; done; ! dvc queue status | grep Failed || exit 1"
# What a block starts in the background ends with its shell.
CLEAN_UP = "trap 'kill $(jobs -p) || true; wait' EXIT"
# `serve` ends when it has answered; `keep_serving` is for blocks that ask it more.
SERVE = r"""keep_serving() {
  rm -f ../served
  tumorboard serve --port 0 "$@" > ../served &
  trap "kill $!" EXIT
  until grep -s 'The panel is at' ../served; do sleep 1; kill -0 $!; done
  SERVED=$(grep -o 'http://[^ ]*' ../served)
}
serve() {
  keep_serving "$@"
  curl --fail --silent --show-error "${SERVED}api/panel" && kill $! && wait $! && trap - EXIT
}"""
# An environment with the packages of the one that runs the tests, to which others can be added. It is checked that pip
# would add them there.
VENV = r"""venv() {
  $PROGRAMS/python -m venv "$1"
  echo "import site; site.addsitedir('$PACKAGES')" > "$(echo "$1"/lib/python*/site-packages)/packages.pth"
  [ "$("$1"/bin/python -c 'import sys; print(sys.prefix)')" = "$(realpath "$1")" ]
}"""
