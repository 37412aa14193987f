/* kernels/epilogue.h
 *
 * What a product does to its sums on their way into memory (device/device.h, struct epilogue), in a program with
 * tangents too. Every kernel of products ends with finish_sums.
 *
 * Idea. The matrix units leave a warp's sums two by two in registers, 8 rows at a time. Through shared memory they come
 * to stand in rows, of which each thread finishes four columns: it keeps these columns' scales and biases in registers,
 * and memory is read and written 16 bytes at a time by neighbouring threads.
 *
 *     registers ─ park_sums ─► shared ─ act_on_sums, in place ─► shared ─ store_sums ─► y
 *                                       x scale + bias + lane bias, act     (x factors) + residual
 *
 * store_sums has no act in it, so that its code is small enough for four rows at once: reading a residual takes longer
 * than all the arithmetic.
 *
 * Tangents. An evaluation's act leaves its derivative in the factors (ops.c, take_factors), which a tangent's sum is
 * multiplied by instead of passing the act. So after an act tangents have a launch of their own, see launch_lanes.
 *
 * Lanes (device/device.h): fmaf, and sums and products that are never fused, so that every kernel and tile rounds alike.
 */
#ifndef ZOODIP_KERNELS_EPILOGUE_H
#define ZOODIP_KERNELS_EPILOGUE_H

#include "device/tiles.h"
#include "kernels/banks.h"
#include "kernels/cuda.h"

/* A launch's y and what its sums become. Packed columns: in the order of the weight's packed rows (device/tiles.h). */
struct finish {
    struct view<float> y;
    struct view<const float> residual, lane_bias; /* data NULL: none */
    struct view<float> factors;                   /* likewise; gated: gelu(gate), then value gelu'(gate) */
    const int32_t *primals;                       /* each lane's among those of `factors` */
    const float *scale, *bias;                    /* of the packed columns; NULL: ones, zeros */
    int packed;                                   /* columns */
    int primal;                                   /* lanes; those after them are tangents */
    enum act act;
    bool in_fours; /* whatever is read or written may be so 16 bytes at a time */
};

/* ---------------------------------------------------------------------- for launchers */

/* May a row be read and written 16 bytes at a time? */
template <class T> static inline bool in_fours(const struct view<T> &v)
{
    return (uintptr_t)v.data % 16 == 0 && v.channels % 4 == 0 && v.row_stride % 4 == 0 && v.lane_stride % 4 == 0;
}

/* How many of y's lanes, from `first` on, one launch may take: all, but evaluations only before an act's tangents. */
static inline int64_t launch_lanes(const struct device *device, struct tensor y, enum act act, int64_t first)
{
    return (first == 0 && act != ACT_NONE ? primal_lanes(device, y) : y.lanes) - first;
}

/* For lanes [first, first + count) of y. */
static inline struct finish finish_of(const struct device *device, struct tensor y, const struct weight *w,
                                      struct epilogue e, int64_t first, int64_t count)
{
    struct finish f = {};
    int64_t primal = primal_lanes(device, y) - first;
    f.y = view_of<float>(tensor_lanes(y, first, count));
    if (e.residual)
        f.residual = view_of<const float>(tensor_lanes(*e.residual, first, count));
    if (e.lane_bias && primal > 0)
        f.lane_bias = view_of<const float>(tensor_lanes(*e.lane_bias, first, primal < count ? primal : count));
    if (device->factors.base) {
        f.factors = view_of<float>(device->factors);
        f.primals = (const int32_t *)tensor_data(device->tangents.of) + first;
    }
    f.scale = w->scale;
    f.bias = w->bias;
    f.packed = (int)tile_layout_of(w).rows;
    f.primal = (int)(primal < 0 ? 0 : primal < count ? primal : count);
    f.act = e.act;
    f.in_fours = in_fours(f.y) && in_fours(f.residual) && in_fours(f.lane_bias);
    return f;
}

/* ---------------------------------------------------------------------- for kernels */

/* Bytes of shared memory that finish_sums uses, of a block of WARPS. */
template <int TALL, int WIDE, int WARPS> struct finish_room {
    static const int BYTES = WARPS * TALL * 16 * WIDE * 8 * (int)sizeof(float);
};

/* Numbers [from, from + 4), or the first `count` of them and zeros. */
__device__ static inline void load_four(float (&to)[4], const float *from, int count, bool in_fours)
{
    if (in_fours) {
        float4 v = *(const float4 *)from;
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else {
        for (int j = 0; j < 4; j++)
            to[j] = j < count ? from[j] : 0.0f;
    }
}

__device__ static inline void fill(float (&to)[4], float x)
{
    for (int j = 0; j < 4; j++)
        to[j] = x;
}

__device__ static inline void store_four(float *to, const float (&v)[4], int count, bool in_fours)
{
    if (in_fours) {
        *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
    } else {
        for (int j = 0; j < 4; j++)
            if (j < count)
                to[j] = v[j];
    }
}

/* The four columns of a warp's WIDE tiles of 8 that one of its threads finishes, and in which rows. Gated: of eight
 * values and then their gates, the values. */
template <int WIDE> struct columns {
    int row, step; /* the first, and rows at a time */
    int piece;     /* of a row in shared memory */
    int packed, y; /* first column */
    int count;     /* of y's that there are, which may be more than four */

    __device__ columns(const struct finish &f, int first_packed, bool gated)
    {
        int lane = (int)threadIdx.x % 32, number = gated ? lane % WIDE : lane % (2 * WIDE);
        row = gated ? lane / WIDE : lane / (2 * WIDE);
        step = gated ? 32 / WIDE : 16 / WIDE;
        piece = gated ? number / 2 * 4 + number % 2 : number;
        packed = first_packed + piece * 4;
        y = gated ? packed / 16 * 8 + packed % 8 : packed;
        count = f.y.channels - y;
    }
};

enum { GATE_PIECES = 2, GATE_COLUMNS = 8 }; /* from values to their gates */

/* Lane and position of a row. */
struct row_place {
    int lane, position;

    __device__ row_place(const struct finish &f, int row)
    {
        lane = (int)((unsigned)row / (unsigned)f.y.positions);
        position = row - lane * f.y.positions;
    }
};

/* A place in a warp's room. */
template <int WIDE> __device__ static inline float *room_at(float *room, int row, int piece)
{
    return room + piece_place<2 * WIDE>(row, piece) * 4;
}

/* What four packed columns are multiplied by, and what is added. */
struct terms {
    float scale[4], bias[4];

    /* Memory has whole pieces of them, each on 16 bytes (device/tiles.h). */
    __device__ void begin(const struct finish &f, int packed)
    {
        fill(scale, 1);
        if (f.scale)
            load_four(scale, f.scale + packed, 4, true);
    }

    __device__ void begin_lane(const struct finish &f, int packed, bool tangent)
    {
        fill(bias, 0);
        if (f.bias && !tangent)
            load_four(bias, f.bias + packed, 4, true);
    }

    __device__ void scale_sums(float (&u)[4], const float *sums) const
    {
        float v[4];
        load_four(v, sums, 4, true);
        for (int j = 0; j < 4; j++)
            u[j] = fmaf(v[j], scale[j], bias[j]);
    }
};

/* The sums of a warp's tiles, at lanes g, t as kernels/ptx.h says, to its room. */
template <int TALL, int WIDE> __device__ static inline void park_sums(float *room, const float (&sums)[TALL][WIDE][4])
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < TALL; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int n = 0; n < WIDE; n++) {
                float *to = room_at<WIDE>(room, i * 16 + half * 8 + g, n * 2 + t / 2) + t % 2 * 2;
                *(float2 *)to = make_float2(sums[i][n][half * 2], sums[i][n][half * 2 + 1]);
            }
}

/* In place: sums become act(sum x scale + bias + lane bias), or value x gelu(gate), unless the act is ACT_NONE.
 * Evaluations leave the factors. A gate's gelu is worked out for four numbers at a time; other acts are rare, and take
 * one after the other. */
template <bool GATED, int TALL, int WIDE>
__device__ static inline void act_on_sums(const struct finish &f, enum act act, float *room, int first_row,
                                          int first_packed)
{
    const struct columns<WIDE> c(f, first_packed, GATED);
    if (c.packed >= f.packed || (GATED && c.count <= 0))
        return;
    struct terms value, gate;
    value.begin(f, c.packed);
    if (GATED)
        gate.begin(f, c.packed + GATE_COLUMNS);
    int known = -1; // the lane whose biases we have
    float lane_bias[4];
#pragma unroll 1
    for (int r = c.row; r < TALL * 16 && first_row + r < f.y.lanes * f.y.positions; r += c.step) {
        struct row_place at(f, first_row + r);
        if (at.lane != known) {
            known = at.lane;
            bool tangent = known >= f.primal;
            value.begin_lane(f, c.packed, tangent);
            if (GATED)
                gate.begin_lane(f, c.packed + GATE_COLUMNS, tangent);
            fill(lane_bias, 0);
            if (!GATED && f.lane_bias.data && !tangent)
                load_four(lane_bias, row_of(f.lane_bias, known, 0) + c.y, c.count, f.in_fours);
        }
        float *sums = room_at<WIDE>(room, r, c.piece), u[4];
        float *factors = f.factors.data ? row_of(f.factors, f.primals[at.lane], at.position) + c.y : NULL;
        value.scale_sums(u, sums);
        if (GATED) {
            float g[4], gelus[4], slopes[4];
            gate.scale_sums(g, room_at<WIDE>(room, r, c.piece + GATE_PIECES));
            for (int j = 0; j < 4; j++) {
                gelus[j] = gelu(g[j]);
                slopes[j] = factors ? __fmul_rn(u[j], act_slope(g[j], ACT_GELU)) : 0.0f;
                u[j] = __fmul_rn(u[j], gelus[j]);
            }
            if (factors) {
                store_four(factors, gelus, c.count, f.in_fours);
                store_four(factors + f.y.channels, slopes, c.count, f.in_fours);
            }
        } else {
            for (int j = 0; j < 4; j++)
                u[j] = __fadd_rn(u[j], lane_bias[j]);
        }
        store_four(sums, u, 4, true);
#pragma unroll 1
        for (int j = 0; j < 4 && !GATED && act != ACT_NONE; j++) {
            float x = sums[j];
            sums[j] = activated(x, act);
            if (factors && j < c.count)
                factors[j] = act_slope(x, act);
        }
    }
}

/* A tangent's u. -> a'(u) u., or, with the sums of gates, v. gelu(g) + g. v gelu'(g). */
template <int WIDE>
__device__ static inline void multiply_by_factors(float (&v)[4], const struct finish &f, struct row_place at,
                                                  const struct columns<WIDE> &c, const float *gates)
{
    const float *factors = row_of(f.factors, f.primals[at.lane], at.position) + c.y;
    float by[4], gate[4];
    load_four(by, factors, c.count, f.in_fours);
    for (int j = 0; j < 4; j++)
        v[j] = __fmul_rn(v[j], by[j]);
    if (!gates)
        return;
    load_four(gate, gates, 4, true);
    load_four(by, factors + f.y.channels, c.count, f.in_fours);
    for (int j = 0; j < 4; j++)
        v[j] = fmaf(gate[j], by[j], v[j]);
}

/* y = sum + residual; `times`: the factors of tangents, a gated one's being of values and of gates. */
template <int TALL, int WIDE>
__device__ static inline void store_sums(const struct finish &f, float *room, int first_row, int first_packed,
                                         bool times)
{
    const bool gated = f.act == ACT_GEGLU;
    const struct columns<WIDE> c(f, first_packed, gated);
    const int AT_ONCE = 4, rows = min(TALL * 16, f.y.lanes * f.y.positions - first_row);
    if (c.count <= 0)
        return;
#pragma unroll 1
    for (int first = c.row; first < rows; first += AT_ONCE * c.step) {
        float *y[AT_ONCE], v[AT_ONCE][4], residual[AT_ONCE][4];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            int r = first + i * c.step;
            if (r >= rows)
                continue;
            struct row_place at(f, first_row + r);
            load_four(v[i], room_at<WIDE>(room, r, c.piece), 4, true);
            if (times)
                multiply_by_factors(v[i], f, at, c, gated ? room_at<WIDE>(room, r, c.piece + GATE_PIECES) : NULL);
            fill(residual[i], 0);
            if (f.residual.data)
                load_four(residual[i], row_of(f.residual, at.lane, at.position) + c.y, c.count, f.in_fours);
            y[i] = row_of(f.y, at.lane, at.position) + c.y;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i * c.step >= rows)
                continue;
            for (int j = 0; j < 4; j++)
                v[i][j] = __fadd_rn(v[i][j], residual[i][j]);
            store_four(y[i], v[i], c.count, f.in_fours);
        }
    }
}

/* Writes a warp's sums [TALL tiles of 16 rows][WIDE tiles of 8 packed columns], from row first_row of the launch and
 * from packed column first_packed on. `shared` has room for finish_room; nobody may still need what it held, so a
 * barrier comes before this. Called by the whole block. */
template <int TALL, int WIDE>
__device__ static inline void finish_sums(const struct finish &f, const float (&sums)[TALL][WIDE][4], void *shared,
                                          int first_row, int first_packed)
{
    float *room = (float *)shared + (int)threadIdx.x / 32 * (TALL * 16 * WIDE * 8);
    bool times = f.factors.data && f.primal == 0;
    park_sums(room, sums);
    __syncwarp();
    if (f.act == ACT_GEGLU && !times)
        act_on_sums<true, TALL, WIDE>(f, f.act, room, first_row, first_packed);
    else
        act_on_sums<false, TALL, WIDE>(f, times ? ACT_NONE : f.act, room, first_row, first_packed);
    __syncwarp();
    store_sums<TALL, WIDE>(f, room, first_row, first_packed, times);
}

#endif
