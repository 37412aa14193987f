#include "device/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/kinds.h"

static bool runs_here(const struct kernels *k)
{
#ifdef ZOODIP_X86
    __builtin_cpu_init();
    if (k == &kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (k == &kernels_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return k == &kernels_generic;
}

/* The widest table that this machine can run, or the one that the environment variable ZOODIP_ISA names (for tests). */
static const struct kernels *pick_kernels(void)
{
    static const struct kernels *const widest_first[] = {
#ifdef ZOODIP_X86
        &kernels_avx512,
        &kernels_avx2,
#endif
        &kernels_generic,
    };
    const char *asked = getenv("ZOODIP_ISA");
    for (size_t i = 0; i < sizeof widest_first / sizeof *widest_first; i++)
        if (runs_here(widest_first[i]) && (!asked || strcmp(asked, widest_first[i]->name) == 0))
            return widest_first[i];
    return asked ? NULL : &kernels_generic;
}

static void cpu_close(struct device *d)
{
    struct cpu *cpu = (struct cpu *)d;
    pool_close(cpu->pool);
    memory_free(cpu->scratch);
    memory_free(cpu);
}

/* Every call has finished when it returns. */
static struct error cpu_wait(struct device *d)
{
    (void)d;
    return ok();
}

static struct error cpu_alloc(struct device *d, int64_t bytes, void **memory)
{
    (void)d;
    *memory = memory_alloc(bytes, 1);
    return *memory ? ok() : error_failed("out of memory: %lld bytes for tensors", (long long)bytes);
}

static void cpu_free(struct device *d, void *memory)
{
    (void)d;
    memory_free(memory);
}

/* Copies between a tensor and dense memory, position by position. */
static void copy_rows(struct tensor t, char *dense, bool into_tensor)
{
    int64_t size = dtype_size(t.type), row = t.channels * size;
    for (int64_t lane = 0; lane < t.lanes; lane++)
        for (int64_t p = 0; p < tensor_positions(t); p++, dense += row) {
            char *at = (char *)tensor_data(t) + (lane * t.lane_stride + p * t.row_stride) * size;
            if (into_tensor)
                memcpy(at, dense, (size_t)row);
            else
                memcpy(dense, at, (size_t)row);
        }
}

static void cpu_write(struct device *d, struct tensor to, const void *from)
{
    (void)d;
    copy_rows(to, (char *)from, true);
}

static void cpu_read(struct device *d, void *to, struct tensor from)
{
    (void)d;
    copy_rows(from, to, false);
}

static void cpu_set_tangents(struct device *d, int bits)
{
    const struct cpu *cpu = cpu_of(d);
    snprintf(d->model, sizeof d->model, "cpu, %s%s%s", cpu->kernels->name, bits == 8 && cpu->int8 ? ", " : "",
             bits == 8 && cpu->int8 ? cpu->int8->name : "");
}

void cpu_describe_codes(struct device *d)
{
    const struct int8_unit *unit = cpu_int8();
    d->code_families = unit ? CODES_ALL : 0;
    d->tangents_pay_from = unit ? unit->tangents_pay_from : 0;
}

const struct int8_unit *cpu_int8(void)
{
    static const struct int8_unit *unit;
    static bool known; // asked for with each op
    const struct kernels *kernels = known ? NULL : pick_kernels();
    if (kernels)
        unit = int8_pick(kernels->panel);
    known = true;
    return unit;
}

static const struct device_ops cpu_ops = {
    .set_tangents = cpu_set_tangents,
    .close = cpu_close,
    .wait = cpu_wait,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .weight_place = cpu_weight_place,
    .weight_pack = cpu_weight_pack,
    .write = cpu_write,
    .read = cpu_read,
    .code_blocks = cpu_code_blocks,
    .channel_rms = cpu_channel_rms,
    .linear = cpu_linear,
    .conv = cpu_conv,
    .norm = cpu_norm,
    .attention = cpu_attention,
    .copy = cpu_copy,
    .embed = cpu_embed,
    .timestep = cpu_timestep,
    .loss = cpu_loss,
    .draw = cpu_draw,
    .add_noise = cpu_add_noise,
    .perturb = cpu_perturb,
    .mix = cpu_mix,
    .update = cpu_update,
};

struct error cpu_open(struct device **device, int index, int threads)
{
    (void)index;
    const struct kernels *kernels = pick_kernels();
    if (!kernels)
        return error_input("ZOODIP_ISA: %s: not an instruction set of this machine", getenv("ZOODIP_ISA"));
    struct cpu *cpu = memory_alloc(1, sizeof *cpu);
    if (!cpu)
        return error_memory("the device");
    cpu->device.ops = &cpu_ops;
    cpu->kernels = kernels;
    cpu->int8 = cpu_int8();
    cpu_describe_codes(&cpu->device);
    struct error e = pool_open(&cpu->pool, threads);
    if (e.code == ERROR_NONE) {
        threads = pool_threads(cpu->pool);
        cpu->scratch = memory_alloc(threads, SCRATCH_BYTES);
        if (!cpu->scratch)
            e = error_memory("the device's scratch");
    }
    if (e.code != ERROR_NONE) {
        cpu_close(&cpu->device);
        return e;
    }
    snprintf(cpu->device.name, sizeof cpu->device.name, "cpu (%d thread%s, %s)", threads, threads == 1 ? "" : "s",
             kernels->name);
    snprintf(cpu->device.model, sizeof cpu->device.model, "cpu, %s", kernels->name);
    *device = &cpu->device;
    return ok();
}
