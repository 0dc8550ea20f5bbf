"""torchvision is imported without torch's compiler, and both work afterwards."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def printed(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_torchvision_is_imported_without_the_compiler_which_works_afterwards() -> None:
    program = """
import sys, torch
from tumorboard.models.zoo import torchvision_models
models = torchvision_models()
assert models is torchvision_models()
print("torch._dynamo" in sys.modules, "torch._dynamo.utils" in sys.modules)
import torchvision
assert torchvision.models is models
boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
print(torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).tolist())
optimizer = torch.optim.SGD(models.squeezenet1_1().parameters(), lr=0.1)
print("torch._dynamo" in sys.modules, torch._dynamo.is_compiling(), torchvision.ops.roi_align.__module__)
from torchvision.ops import roi_align
module = sys.modules["torchvision.ops.roi_align"]
print(module.is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu"))
"""
    lines = printed(program).splitlines()
    assert lines[0] == "False False"
    assert lines[1] == "[[[[1.0, 1.0], [1.0, 1.0]]]]"
    assert lines[2] == "True False torchvision.ops.roi_align"
    assert lines[3] == "True"


def test_what_else_is_used_of_the_compiler_imports_it() -> None:
    """As a version of torchvision might: the name comes from the compiler, and the stand-ins are gone."""
    program = """
import sys, types
from tumorboard.models import zoo
package, utils = map(zoo._StandIn, zoo._COMPILER)
package.__path__ = []
sys.modules.update(zip(zoo._COMPILER, (package, utils)))
import torch
from torch._dynamo.utils import counters
import torch._dynamo
print(type(counters).__name__, type(torch._dynamo).__name__, type(torch._dynamo.utils).__name__)
"""
    assert printed(program) == "defaultdict module module"


def test_where_the_compiler_is_imported_already_nothing_stands_in_for_it() -> None:
    program = """
import sys, torch._dynamo
before = sys.modules["torch._dynamo"]
from tumorboard.models.zoo import torchvision_models
torchvision_models()
print(sys.modules["torch._dynamo"] is before, sys.modules["torchvision.ops.roi_align"].is_compile_supported.__module__)
"""
    assert printed(program) == "True torch._dynamo.utils"
