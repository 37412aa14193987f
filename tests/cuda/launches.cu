/* launches CAPABILITY
 *
 * How each kernel is launched: takes the launchers of kernels/ through all their branches, with tensors that point
 * nowhere, and prints every launch instead of running it:
 *
 *     kernel's address, threads of a block, bytes of shared memory        and once: main's address
 *
 * tests/cuda/compiled.py finds the names by the addresses and combines the numbers with the compiler's.
 */
#include <stdio.h>
#include <stdlib.h>

#include <initializer_list>

#include "device/tiles.h"
#include "kernels/cuda.h"

/* These two replace the stand-in's. */
cudaError_t standin_function_attribute(void *, cudaFuncAttribute, int)
{
    return cudaSuccess;
}

cudaError_t standin_launch(void *kernel, void (*)(void *, const void *), const void *, size_t, dim3, dim3 block,
                           size_t shared, cudaStream_t)
{
    printf("%zx %u %zu\n", (size_t)kernel, block.x, shared);
    return cudaSuccess;
}

static struct buffer nowhere = {(void *)4096, 1 << 30};

/* Dense; with an odd offset it cannot be read in pieces. */
static struct tensor tensor_of(enum dtype type, int64_t lanes, int64_t rows, int64_t channels, int64_t offset = 0)
{
    return {&nowhere, offset, type, lanes, 1, rows, channels, rows * channels, channels};
}

static struct weight weight_of(int64_t out, int64_t in, enum dtype type, int64_t group)
{
    struct weight w = {};
    w.out = out;
    w.in = in;
    w.kh = w.kw = 1;
    w.type = type;
    w.group = group;
    return w;
}

static const struct {
    enum dtype type;
    int64_t group;
} kinds[] = {{U8, 32}, {I8, 0}, {F16, 0}, {F32, 0}};

/* Every kind of weights; many rows and few; readable in pieces or not. */
static void products(struct device *device)
{
    for (const auto &kind : kinds)
        for (int64_t rows : {4, 1 << 16})
            for (int64_t offset : {0, 4}) {
                struct weight w = weight_of(1280, 1280, kind.type, kind.group);
                cuda_linear(device, tensor_of(F32, 1, rows, 1280), tensor_of(F32, 1, rows, 1280, offset), &w, {});
            }
}

/* A program with tangents, all of which is rounded once: sums of one part and of several, then codes with an outlier. */
static void tangent_products(struct device *device)
{
    struct coded coded = {};
    coded.count = 1;
    device->tangents = {1, tensor_of(I32, 1, 1, 2), 1};
    device->tangent_bits = 8;
    device->work = tensor_of(U8, 1, 1, 1);
    for (int64_t in : {1280, 4096})
        for (int64_t rows : {4, 1 << 16}) {
            struct tensor y = tensor_of(F32, 2, rows, 1280), x = tensor_of(F32, 2, rows, in);
            for (const auto &kind : kinds) {
                struct weight w = weight_of(1280, in, kind.type, kind.group);
                cuda_linear(device, y, x, &w, {});
            }
            struct weight w = weight_of(1280, in, I8, 0);
            coded.weight = &w;
            device->coded = &coded;
            device->encodes = true;
            cuda_linear(device, y, x, &w, {});
            device->encodes = false;
            device->coded = NULL;
        }
    device->tangents = {};
    double rms;
    cuda_channel_rms(device, &rms, tensor_of(F32, 1, 1, 1), 0);
    device->error = ok(); // there is nothing that it could have copied
}

static void attention(struct device *device)
{
    for (int64_t size : {32, 40, 64, 80, 160, 512}) {
        struct tensor x = tensor_of(F32, 1, 77, size);
        cuda_attention(device, x, x, x, x, 1, false);
    }
}

/* A primal and more tangents than a block takes; operands rounded once, and in pairs. */
static void attention_of_tangents(struct device *device)
{
    device->work = tensor_of(U8, 1, 1, 1);
    device->tangents.of = tensor_of(I32, 1, 1, 9);
    device->tangents.primal = 1;
    for (int bits : {16, 32})
        for (int64_t size : {40, 64, 80, 160, 512}) {
            struct tensor x = tensor_of(F32, 9, 128, size);
            device->tangent_bits = bits;
            cuda_attention(device, x, x, x, x, 1, false);
        }
    device->tangents = {};
}

static void norms(struct device *device)
{
    struct weight w = weight_of(320, 0, F32, 0);
    for (int64_t offset : {0, 4}) {
        struct tensor x = tensor_of(F32, 1, 64, 320, offset);
        cuda_norm(device, x, x, &w, 0, 1e-5f, ACT_NONE);
        for (int64_t groups : {32, 80, 320})
            cuda_norm(device, x, x, &w, groups, 1e-5f, ACT_SILU);
    }
}

static void rest(struct device *device)
{
    struct tensor x = tensor_of(F32, 1, 64, 320), none = {}, one = tensor_of(F32, 1, 1, 1);
    struct weight table = weight_of(77, 320, F32, 0);
    for (int64_t channels : {16, 4, 1})
        cuda_copy(device, tensor_of(U8, 1, 4, channels), tensor_of(U8, 1, 4, channels), none);
    cuda_embed(device, x, tensor_of(I32, 1, 64, 1), &table, &table, one, 77);
    cuda_timestep(device, x, one, true, 0);
    cuda_loss(device, one, x, x, none, none);
    cuda_draw(device, x, one, 0, 0);
    cuda_perturb(device, one, one, one, one, 1e-3);
    cuda_mix(device, one, one, one);
    struct add_noise n = {x, x, x, one, one, 1, false};
    cuda_add_noise(device, x, x, one, &n);
    struct update u = {};
    for (struct tensor *t :
         {&u.embedding, &u.m, &u.v, &u.gradient, &u.slots, &u.directions, &u.removed, &u.removed_rows, &u.rates})
        *t = one;
    u.n = u.sides = u.batch = 1;
    cuda_update(device, &u);
}

int main(int argc, char **argv)
{
    struct cuda cuda = {};
    cuda.capability = argc > 1 ? atoi(argv[1]) : 90;
    cuda.processors = 132;
    printf("%zx 0 0\n", (size_t)main);
    for (enum operand operand : {HALF, BFLOAT}) {
        cuda.operand = operand;
        products(&cuda.device);
        tangent_products(&cuda.device);
        attention(&cuda.device);
        attention_of_tangents(&cuda.device);
        norms(&cuda.device);
        rest(&cuda.device);
    }
    return cuda.device.error.code != ERROR_NONE;
}
