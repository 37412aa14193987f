/* device/cpu/kernels_winograd.h
 *
 * The transforms of Winograd's F(4x4, 3x3) for kernels.c, see winograd.c: each first along the columns of a square, then
 * along its rows. The points are 0, +-p, +-q and infinity with p = 1 / sqrt 2, q = sqrt 2; with pq = 1 most
 * coefficients are 1.
 */

#define POINT_P 0.70710678118654752f
#define POINT_Q 1.41421356237309505f

/* d becomes Bt d. */
static inline void source_line(vec *d, int step)
{
    vec even_p = fma_of(splat(-2.f), d[2 * step], d[4 * step]), odd_p = fma_of(splat(-2.f), d[step], d[3 * step]);
    vec even_q = fma_of(splat(-.5f), d[2 * step], d[4 * step]), odd_q = fma_of(splat(-.5f), d[step], d[3 * step]);
    vec zero = fma_of(splat(-2.5f), d[2 * step], d[0] + d[4 * step]);
    vec infinite = fma_of(splat(-2.5f), d[3 * step], d[step] + d[5 * step]);
    d[0] = zero;
    d[step] = fma_of(splat(POINT_P), odd_p, even_p);
    d[2 * step] = fma_of(splat(-POINT_P), odd_p, even_p);
    d[3 * step] = fma_of(splat(POINT_Q), odd_q, even_q);
    d[4 * step] = fma_of(splat(-POINT_Q), odd_q, even_q);
    d[5 * step] = infinite;
}

/* G g */
static inline void weights_line(vec *u, const vec *g, int step)
{
    vec first = g[0], middle = g[step], last = g[2 * step];
    vec even_p = splat(-2.f / 3) * fma_of(splat(.5f), last, first), odd_p = splat(-2.f / 3 * POINT_P) * middle;
    vec even_q = splat(1.f / 6) * fma_of(splat(2.f), last, first), odd_q = splat(1.f / 6 * POINT_Q) * middle;
    u[0] = first;
    u[step] = even_p + odd_p;
    u[2 * step] = even_p - odd_p;
    u[3 * step] = even_q + odd_q;
    u[4 * step] = even_q - odd_q;
    u[5 * step] = last;
}

/* At m */
static inline void result_line(vec *y, const vec *m, int step)
{
    vec even_p = m[step] + m[2 * step], odd_p = m[step] - m[2 * step];
    vec even_q = m[3 * step] + m[4 * step], odd_q = m[3 * step] - m[4 * step];
    y[0] = m[0] + even_p + even_q;
    y[step] = fma_of(splat(POINT_Q), odd_q, splat(POINT_P) * odd_p);
    y[2 * step] = fma_of(splat(2.f), even_q, splat(.5f) * even_p);
    y[3 * step] = fma_of(splat(2 * POINT_Q), odd_q, fma_of(splat(.5f * POINT_P), odd_p, m[5 * step]));
}

/* Channels c of one square, of which `left` remain. */
static inline __attribute__((always_inline)) void source_square(float *to, const float *const *from, int64_t count,
                                                                int64_t c, int64_t left)
{
    vec d[36];
#pragma GCC unroll 6
    for (int column = 0; column < 6; column++) {
#pragma GCC unroll 6
        for (int row = 0; row < 6; row++)
            d[row * 6 + column] = load_some(from[row * 6 + column] + c, left);
        source_line(d + column, 6);
    }
#pragma GCC unroll 6
    for (int row = 0; row < 6; row++) {
        source_line(d + row * 6, 1);
#pragma GCC unroll 6
        for (int column = 0; column < 6; column++)
            store_some(to + (row * 6 + column) * count + c, d[row * 6 + column], left);
    }
}

static void winograd_source(float *to, const float *const *from, int64_t count)
{
    int64_t c = 0;
    for (; c + WIDTH <= count; c += WIDTH)
        source_square(to, from, count, c, WIDTH);
    if (c < count)
        source_square(to, from, count, c, count - c);
}

static void winograd_weights(float *to, int64_t stride, const float *const *from, int64_t count)
{
    for (int64_t i = 0; i < count; i += WIDTH) {
        vec g[9], half[18], u[6];
        for (int tap = 0; tap < 9; tap++)
            g[tap] = load(from[tap] + i);
        for (int column = 0; column < 3; column++)
            weights_line(half + column, g + column, 3);
#pragma GCC unroll 6
        for (int row = 0; row < 6; row++) {
            weights_line(u, half + row * 3, 1);
            for (int column = 0; column < 6; column++)
                store(to + (row * 6 + column) * stride + i, u[column]);
        }
    }
}

static void winograd_result(float *to, int64_t to_stride, const float *from, int64_t stride)
{
    for (int64_t c = 0; c < PANEL; c += WIDTH) {
        vec m[36], half[24], y[4];
        for (int i = 0; i < 36; i++)
            m[i] = load(from + i * stride + c);
        for (int column = 0; column < 6; column++)
            result_line(half + column, m + column, 6);
#pragma GCC unroll 4
        for (int row = 0; row < 4; row++) {
            result_line(y, half + row * 6, 1);
            for (int column = 0; column < 4; column++)
                store(to + (row * 4 + column) * to_stride + c, y[column]);
        }
    }
}
