"""Write the names and parameters of the installed CuPy to cupy_api.json. Needs CuPy, not a GPU.

usage: python tests/cuda/snapshot.py OUT.json
"""

import inspect
import json
import sys


def parameters(f):
    try:
        return [[p.name, p.kind.name] for p in inspect.signature(f).parameters.values()]
    except (ValueError, TypeError):
        return None


def public(owner):
    return [name for name in dir(owner) if not name.startswith("_")]


def describe(module, ufunc):
    table = {}
    for name in public(module):
        value = getattr(module, name)
        is_ufunc = isinstance(value, ufunc)
        plain = callable(value) and not is_ufunc and not isinstance(value, type)
        table[name] = {
            "kind": "ufunc" if is_ufunc else type(value).__name__,
            "params": parameters(value) if plain else None,
        }
    return table


def one_name_per_line(api):
    """JSON whose diff between two versions of CuPy can be read."""
    sections = []
    for key, value in sorted(api.items()):
        if isinstance(value, dict):
            lines = ",\n".join(
                f"{json.dumps(name)}: {json.dumps(value[name], sort_keys=True)}"
                for name in sorted(value)
            )
            sections.append(f"{json.dumps(key)}: {{\n{lines}}}")
        elif isinstance(value, list):
            sections.append(
                f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(name) for name in value) + "]"
            )
        else:
            sections.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(sections) + "}\n"


if __name__ == "__main__":
    import cupy
    import cupyx

    api = {
        "version": cupy.__version__,
        "cupy": describe(cupy, cupy.ufunc),
        "cupyx": describe(cupyx, cupy.ufunc),
        "linalg": describe(cupy.linalg, cupy.ufunc),
        "random": describe(cupy.random, cupy.ufunc),
        "stride_tricks": describe(cupy.lib.stride_tricks, cupy.ufunc),
        "ndarray": dir(cupy.ndarray),
        "ufunc_methods": public(cupy.ufunc),
        "Generator": public(cupy.random.Generator),
        "RandomState": public(cupy.random.RandomState),
    }
    with open(sys.argv[1], "w") as file:
        file.write(one_name_per_line(api))
    print(f"{len(api['cupy'])} names of cupy {api['version']}")
