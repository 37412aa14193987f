"""What the compiler made of the CUDA kernels, where there is a toolkit and no GPU is needed: the hot kernels keep
all in registers, they use the instructions that they were written for, and every launch is one that its GPU can take.

Read by tests/cuda/compiled.py, which prints the whole as a table."""
import sys

import pytest

from conftest import BUILD, ROOT

sys.path[:0] = [str(ROOT / "tests" / "cuda"), str(ROOT / "tests" / "bench")]
import compiled  # noqa: E402
import gpu_kernels  # noqa: E402

NEEDS = "standin"
SM = 90
PRODUCTS = ("product.cu", "rounded_product.cu", "coded_product.cu", "attention.cu", "attention_wide.cu", "attention_tangent.cu",
            "attention_tangent_wide.cu")
HOT = (*PRODUCTS, "norm.cu")

needs_nvcc = pytest.mark.skipif(not compiled.find("nvcc"), reason="no nvcc: the CUDA toolkit is not installed")
needs_launches = pytest.mark.skipif(not (BUILD / "tests/cuda/launches").exists(), reason="built without the stand-in")


@pytest.fixture(scope="module")
def kernels():
    return compiled.compile_all(SM)


@needs_nvcc
def test_hot_kernels_keep_everything_in_registers(kernels):
    outside = {k.name: k.stack for k in kernels.values() if k.file in HOT and k.stack}
    assert any(k.file == "product.cu" for k in kernels.values()) and not outside


@needs_nvcc
def test_products_and_attention_use_the_matrix_units_and_their_loads(kernels):
    if not compiled.find("cuobjdump"):
        pytest.skip("no cuobjdump beside nvcc, on the PATH or in triton")
    hot = [k for k in kernels.values() if k.file in PRODUCTS]
    # a wide head's kernel reads its factors straight from global memory
    missing = {k.name: [i for i in ("LDSM", "LDGSTS") if not k.code.counts[i] and (i != "LDGSTS" or "wide" not in k.name)] for k in hot}
    assert len(hot) > 20 and not {name: gone for name, gone in missing.items() if gone}
    assert not [k.name for k in hot if not k.code.matrix]


@needs_nvcc
@needs_launches
def test_every_kernel_is_launched_and_finds_room_on_a_multiprocessor(kernels):
    launches = compiled.launches(SM)
    assert set(kernels) == set(launches)
    crowded = {name: launches[name] for name, k in kernels.items() if not compiled.resident_warps(k, launches[name], SM)}
    assert not crowded


@needs_launches
@pytest.mark.parametrize("sm", compiled.LIMITS)
def test_no_launch_asks_for_more_shared_memory_than_a_block_may_have(sm):
    most = compiled.LIMITS[sm]["shared_of_block"] << 10
    assert not {name: launch.shared for name, launch in compiled.launches(sm).items() if launch.shared > most}


@pytest.mark.parametrize("name, agreed", [
    ("void product_kernel<(operand)0, (tile_kind)1, 64, 64, true>(product_args)", "product_kernel<half, 8 bits, 64, 64, true>"),
    ("_GLOBAL__N__bb22463f_12_attention_cu_1b74b7b2::attend<(operand)1, 40>(_GLOBAL__N__bb::attention_args)", "attend<bfloat, 40>"),
    ("void (anonymous namespace)::copy<int4>((anonymous namespace)::copy_args<int4>)", "copy<int4>"),
])
def test_both_compilers_names_become_the_same(name, agreed):
    assert compiled.plain(name) == agreed


@needs_nvcc
@pytest.mark.parametrize("modelled", gpu_kernels.COMPILED)
def test_the_model_of_a_gpu_has_the_compiled_kernels_loops(kernels, modelled):
    """tests/bench/gpu_kernels.py, which is to be brought up to date where this fails; other compilers differ by less."""
    if not compiled.find("cuobjdump"):
        pytest.skip("no cuobjdump beside nvcc, on the PATH or in triton")
    code, loop = kernels[gpu_kernels.COMPILED[modelled]].code, gpu_kernels.named(modelled)
    assert code.matrix == loop.matrix and abs(code.loop / loop.loop - 1) < 0.1


LOOP = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64] ;
        /*0020*/              @!P0 BRA `(.L_x_1) 0x50 ;
        /*0030*/                   IMAD R6, R6, R7, R8 ;
        /*0040*/                   IADD3 R6, R6, 0x1, RZ ;
        /*0050*/                   HMMA.16816.F32 R8, R12, R16, R8 ;
        /*0060*/                   HMMA.16816.F32 R8, R12, R18, R8 ;
        /*0070*/               @P1 BRA 0x10 ;
        /*0080*/                   STG.E [R2.64], R8 ;
        /*0090*/                   EXIT ;
        /*00a0*/                   BRA 0xa0 ;
"""


def test_a_loop_is_what_its_rounds_execute():
    """Two instructions are jumped over in most rounds; the last branch is the padding behind every kernel."""
    found = compiled.sass.functions(f"\tFunction : first\n{LOOP}\tFunction : second\n        /*0000*/  EXIT ;\n")
    first, second = found["first"], found["second"]
    assert (first.instructions, first.loop, first.matrix, first.behind) == (11, 5, 2, 3)
    assert first.counts["HMMA"] == 2 and first.kib == 11 / 64
    assert (second.instructions, second.loop) == (1, 0)


# Worked out by hand with the rules of the Programming Guide.
@pytest.mark.parametrize("registers, threads, shared, sm, warps", [
    (32, 256, 0, 90, 64),        # full
    (168, 256, 61440, 90, 8),    # 65536 / (168 x 32 -> 5376) = 12 warps: one block of 8
    (128, 256, 61440, 90, 16),   # 16 warps: two blocks
    (32, 256, 49152, 80, 24),    # 164 KiB / 49 KiB: three blocks
    (32, 128, 0, 86, 48),        # 48 warps: twelve blocks of four
    (40, 1024, 0, 75, 32),       # one block
    (32, 32, 0, 86, 16),         # 16 blocks at most
])
def test_occupancy_follows_the_rules(registers, threads, shared, sm, warps):
    kernel = compiled.Kernel("", "", registers, 0, 0)
    assert compiled.resident_warps(kernel, compiled.Launch(threads, shared), sm) == warps
