/* kernels/encode.cu
 *
 * Rounds x for products whose operands are rounded once (device/gpu.h): each of its rows is read once, and rounded, not
 * in each of the tiles that it takes part in.
 *
 * Codes. A block of a row's channels belongs to a warp, which holds it in registers: size of the largest number, scale
 * = size / 127, code = the whole number nearest to x * (127 / size). Blocks smaller than 2^-100 are zeros; a block with
 * something that is not finite has scale NaN. Codes are bit for bit those of device/cpu/kernels_codes.h.
 *
 * Outliers (device.h) are zeros in the codes. Their numbers go into a row of their own, up to 32 halves in the order
 * of the outliers, which lies after the rows of codes: these take half the room that was planned for halves.
 */
#include <string.h>

#include "kernels/rounded.h"

enum { THREADS = 256, PIECE = 16 /* channels that a thread rounds to halves */ };

/* Numbers [first, first + 4) of a row, zeros past its last. */
__device__ static float4 four_of(const float *row, int first, int channels, bool in_fours)
{
    if (in_fours && first < channels)
        return *(const float4 *)(row + first);
    return make_float4(first < channels ? row[first] : 0, first + 1 < channels ? row[first + 1] : 0,
                       first + 2 < channels ? row[first + 2] : 0, first + 3 < channels ? row[first + 3] : 0);
}

/* -------------------------------------------------------------------------------- halves */

struct halves_args {
    struct view<const float> x;
    uint4 *to; /* [lanes][positions][pieces][2] */
    int pieces;
    bool in_fours;
};

template <enum operand O> __global__ void __launch_bounds__(THREADS) encode_halves_kernel(const struct halves_args a)
{
    unsigned number = blockIdx.x * THREADS + threadIdx.x, position = number / (unsigned)a.pieces;
    int lane = (int)(position / (unsigned)a.x.positions);
    if (lane >= a.x.lanes)
        return;
    const float *row = row_of(a.x, lane, (int)(position - (unsigned)lane * (unsigned)a.x.positions));
    int first = (int)(number - position * (unsigned)a.pieces) * PIECE;
    uint32_t low[4], high[4];
#pragma unroll
    for (int t = 0; t < 4; t++) {
        float4 v = four_of(row, first + 4 * t, a.x.channels, a.in_fours);
        low[t] = pack_two<O>(v.x, v.y);
        high[t] = pack_two<O>(v.z, v.w);
    }
    a.to[2 * (int64_t)number] = make_uint4(low[0], low[1], low[2], low[3]);
    a.to[2 * (int64_t)number + 1] = make_uint4(high[0], high[1], high[2], high[3]);
}

/* -------------------------------------------------------------------------------- codes */

enum { FOURS = 5 }; /* of a block, in a thread: 640 channels */

struct codes_args {
    struct view<const float> x;
    uint32_t *to;       /* [lanes][positions][fours]: codes */
    float *scales;      /* [lanes][positions][blocks] */
    uint16_t *outliers; /* [lanes][positions][outlier_room] */
    int fours, blocks, block, outlier_room, outlier_count;
    bool in_fours;
    int32_t outlier[OUTLIERS];
};

/* A bit for each of the thread's numbers of channels [first, ..): is it an outlier? */
__device__ static uint32_t find_outliers_of(const struct codes_args &a, int first)
{
    uint32_t found = 0;
    for (int k = 0; k < a.outlier_count; k++) {
        int within = a.outlier[k] - first;
        if (within >= 0 && within < FOURS * 128 && within / 4 % 32 == (int)threadIdx.x % 32)
            found |= 1u << (within / 128 * 4 + within % 4);
    }
    return found;
}

/* The outliers' numbers, in the order of halves (device/gpu.h). */
template <enum operand O>
__device__ static void put_outliers(const struct codes_args &a, const float *row, int position)
{
    int k = (int)threadIdx.x % 32, within = k % 16;
    if (k >= a.outlier_room)
        return;
    float x = k < a.outlier_count ? row[a.outlier[k]] : 0.0f;
    int place = k - within + within % 4 / 2 * 8 + within / 4 * 2 + within % 2;
    a.outliers[(int64_t)position * a.outlier_room + place] = (uint16_t)pack_two<O>(x, 0);
}

/* -> the code in the lowest byte. Adding the magic number leaves the rounded number in the lowest bits. */
__device__ static uint32_t code_of(float x, float by)
{
    const float magic = 12582912.0f; // 1.5 x 2^23
    return (__float_as_uint(fmaf(x, by, magic)) - __float_as_uint(magic)) & 255u;
}

template <enum operand O> __global__ void __launch_bounds__(THREADS) encode_codes_kernel(const struct codes_args a)
{
    int number = (int)(blockIdx.x * THREADS + threadIdx.x) / 32, position = number / a.blocks;
    int lane = position / a.x.positions, block = number - position * a.blocks, thread = (int)threadIdx.x % 32;
    if (lane >= a.x.lanes)
        return;
    const float *row = row_of(a.x, lane, position - lane * a.x.positions);
    int first = block * a.block, end = min(first + a.block, a.x.channels), most = min(first + a.block, a.fours * 4);
    uint32_t apart = find_outliers_of(a, first);
    float v[FOURS][4], size = 0;
    bool finite = true;
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
        float4 four = four_of(row, first + i * 128 + thread * 4, end, a.in_fours);
        v[i][0] = four.x, v[i][1] = four.y, v[i][2] = four.z, v[i][3] = four.w;
        for (int j = 0; j < 4; j++) {
            if (apart >> (i * 4 + j) & 1u)
                v[i][j] = 0;
            size = fmaxf(size, fabsf(v[i][j]));
            finite = finite && fabsf(v[i][j]) < INFINITY;
        }
    }
    for (int lanes = 16; lanes > 0; lanes /= 2)
        size = fmaxf(size, __shfl_xor_sync(0xffffffffu, size, lanes));
    finite = __ballot_sync(0xffffffffu, !finite) == 0;
    bool some = finite && size >= 0x1p-100f;
    float by = some ? 127.0f / size : 0.0f;
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
        int channel = first + i * 128 + thread * 4;
        uint32_t codes = 0;
        for (int j = 0; j < 4 && some; j++)
            codes |= code_of(v[i][j], by) << (8 * j);
        if (channel < most)
            a.to[(int64_t)position * a.fours + channel / 4] = codes;
    }
    if (thread == 0)
        a.scales[number] = !finite ? NAN : some ? size / 127.0f : 0.0f;
    if (block == 0)
        put_outliers<O>(a, row, position);
}

/* -------------------------------------------------------------------------------- the outliers' weights */

struct gather_args {
    unsigned char *to;
    const unsigned char *weights;
    int64_t row_bytes;
    int rows, taps, tap_bytes, count;
    int32_t outlier[OUTLIERS];
};

static __global__ void __launch_bounds__(THREADS) gather_weights(const struct gather_args a)
{
    int number = (int)(blockIdx.x * THREADS + threadIdx.x) / OUTLIERS, k = (int)threadIdx.x % OUTLIERS;
    int tap = number / a.rows, row = number - tap * a.rows;
    if (tap >= a.taps)
        return;
    const unsigned char *from = a.weights + row * a.row_bytes + tap * a.tap_bytes;
    a.to[(int64_t)number * OUTLIERS + k] = k < a.count ? from[a.outlier[k]] : 0;
}

/* -------------------------------------------------------------------------------- launchers */

void encode_halves(struct device *device, struct tensor x, int64_t first, int64_t count)
{
    struct gpu_work work = gpu_work_of(device, x, NULL);
    struct halves_args a = {};
    a.x = view_of<const float>(tensor_lanes(x, first, count));
    a.to = (uint4 *)((char *)tensor_data(device->work) + first * a.x.positions * work.numbers * 2);
    a.pieces = (int)work.numbers / PIECE;
    a.in_fours = in_fours(a.x);
    dim3 grid((unsigned)blocks_for(count * a.x.positions * a.pieces, THREADS));
    bool half = cuda_of(device)->operand == HALF;
    launch(device, "encode_halves", half ? encode_halves_kernel<HALF> : encode_halves_kernel<BFLOAT>, grid, THREADS, 0,
           a);
}

void encode_codes(struct device *device, struct tensor x, int64_t first, int64_t count)
{
    struct gpu_work work = gpu_work_of(device, x, device->coded->weight);
    char *memory = (char *)tensor_data(device->work);
    struct codes_args a = {};
    a.x = view_of<const float>(tensor_lanes(x, first, count));
    a.to = (uint32_t *)(memory + work.codes);
    a.scales = (float *)(memory + work.scales);
    a.outliers = (uint16_t *)(memory + work.codes + count * a.x.positions * work.numbers);
    a.fours = (int)work.numbers / 4;
    a.blocks = (int)work.blocks;
    a.block = (int)work.block;
    a.in_fours = in_fours(a.x);
    a.outlier_count = (int)device->coded->count;
    a.outlier_room = a.outlier_count > 0 ? outlier_room(work) : 0;
    memcpy(a.outlier, device->coded->outliers, sizeof a.outlier);
    dim3 grid((unsigned)blocks_for(count * a.x.positions * a.blocks * 32, THREADS));
    bool half = cuda_of(device)->operand == HALF;
    launch(device, "encode_codes", half ? encode_codes_kernel<HALF> : encode_codes_kernel<BFLOAT>, grid, THREADS, 0, a);
}

void gather_outlier_weights(struct device *device, struct tensor x, const struct weight *w)
{
    struct tile_layout l = tile_layout_of(w);
    struct gather_args a = {};
    a.to = (unsigned char *)tensor_data(device->work) + gpu_work_of(device, x, w).outlier_weights;
    a.weights = (const unsigned char *)w->data;
    a.row_bytes = l.row_bytes;
    a.rows = (int)l.rows;
    a.taps = (int)(w->kh * w->kw);
    a.tap_bytes = (int)l.chunks * TILE_DEPTH;
    a.count = (int)device->coded->count;
    memcpy(a.outlier, device->coded->outliers, sizeof a.outlier);
    int64_t numbers = (int64_t)a.taps * a.rows * OUTLIERS;
    launch(device, "gather_weights", gather_weights, dim3((unsigned)blocks_for(numbers, THREADS)), THREADS, 0, a);
}
