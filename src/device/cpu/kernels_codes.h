/* device/cpu/kernels_codes.h
 *
 * Numbers as codes of 8 bits, for kernels.c: what int8.h multiplies.
 */

static void encode(int8_t *to, struct row_codes *row, const float *x, int64_t count)
{
    const vec magic = splat(0x1.8p23f); // adding it leaves the rounded number in the lowest bits
    ivec sizes = {0};
    for (int64_t i = 0; i < count; i += WIDTH)
        sizes = larger_of(sizes, size_of(load_some(x + i, count - i)));
    int32_t bits = largest_of(sizes);
    bool finite = bits < SIZE_OF_INFINITY;
    float size;
    memcpy(&size, &bits, sizeof size);
    if (!finite || size < 0x1p-100f) {
        memset(to, 0, (size_t)count);
        *row = (struct row_codes){finite ? 0 : NAN, 0};
        return;
    }
    vec by = splat(127 / size);
    ivec sum = {0};
    for (int64_t i = 0; i < count; i += WIDTH) {
        ivec codes = (ivec)fma_of(load_some(x + i, count - i), by, magic) - (ivec)magic;
        sum += codes;
        store_bytes(to + i, codes, count - i);
    }
    *row = (struct row_codes){size / 127, 128 * sum_of(sum)};
}

/* Up to WIDTH columns of x. */
static inline void encode_some_across(int8_t *to, int64_t terms, struct row_codes *rows, const float *x, int64_t stride,
                                      int64_t count, int64_t columns)
{
    const vec magic = splat(0x1.8p23f);
    ivec sizes = {0}, sum = {0};
    for (int64_t k = 0; k < count; k++)
        sizes = larger_of(sizes, size_of(load_some(x + k * stride, columns)));
    ivec finite = sizes < SIZE_OF_INFINITY;
    vec size = choose((vec)sizes < splat(0x1p-100f), splat(0.f), (vec)sizes);
    vec by = choose(finite & (size > splat(0.f)), splat(127.f) / size, splat(0.f));
    vec scale = choose(finite, size / splat(127.f), splat(NAN));
    for (int64_t k = 0; k < terms; k += 4) {
        ivec fours = {0};
        for (int i = 0; i < 4 && k + i < count; i++) {
            ivec codes = ((ivec)fma_of(load_some(x + (k + i) * stride, columns), by, magic) - (ivec)magic) & finite;
            sum += codes;
            fours |= (codes & 255) << (8 * i);
        }
        for (int64_t c = 0; c < WIDTH && c < columns; c++)
            memcpy(to + c * terms + k, (char *)&fours + 4 * c, 4);
    }
    for (int64_t c = 0; c < WIDTH && c < columns; c++)
        rows[c] = (struct row_codes){scale[c], 128 * sum[c]};
}

static void encode_across(int8_t *to, int64_t terms, struct row_codes *rows, const float *x, int64_t stride,
                          int64_t count, int64_t columns)
{
    int64_t c = 0;
    for (; c + WIDTH <= columns; c += WIDTH)
        encode_some_across(to + c * terms, terms, rows + c, x + c, stride, count, WIDTH);
    if (c < columns)
        encode_some_across(to + c * terms, terms, rows + c, x + c, stride, count, columns - c);
}

static void encode_columns(uint8_t *to, float *scale, const float *x, int64_t count, int64_t terms)
{
    const vec magic = splat(0x1.8p23f + 128); // codes are written 128 higher
    for (int half = 0; half < 2; half++, x += WIDTH, scale += WIDTH) {
        vec size = splat(0.f), nothing = splat(0.f);
        for (int64_t k = 0; k < count; k++) {
            vec v = load(x + k * PANEL);
            size = max_of(size, max_of(v, -v));
            nothing = fma_of(v, splat(0.f), nothing);
        }
        size = choose(size < splat(0x1p-100f), splat(0.f), size);
        vec by = choose(size > splat(0.f), splat(127.f) / size, splat(0.f));
        store(scale, size / splat(127.f) + nothing);
        for (int64_t k = 0; k < terms; k += 4) {
            ivec fours = {0};
            for (int i = 0; i < 4; i++) {
                vec v = k + i < count ? load(x + (k + i) * PANEL) : splat(0.f);
                fours |= (((ivec)fma_of(v, by, magic)) & 255) << (8 * i);
            }
            memcpy(to + (k * PANEL / 4 + half * WIDTH) * 4, &fours, sizeof fours);
        }
    }
}
