#include "files/picture.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"

enum { PRECISION = 32 - 8 - 2 }; /* fractional bits, given 8 bits for the pixel and 2 for overshoot and sign */

/* How each output position is mixed from input positions along one axis. */
struct mix {
    int64_t size;    /* outputs */
    int64_t room;    /* weights kept for each */
    int64_t *first;  /* [size] */
    int64_t *count;  /* [size] */
    int32_t *weight; /* [size, room] fixed point */
};

/* Keys' cubic with a = -1/2. */
static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static void mix_free(struct mix *mix)
{
    memory_free(mix->first);
    memory_free(mix->count);
    memory_free(mix->weight);
}

/* The weights of one output: the cubic, stretched where the picture shrinks, sampled at pixel centers, sum 1. */
static void mix_one(struct mix *mix, int64_t i, int64_t from, double scale, double stretch, double *exact)
{
    double center = ((double)i + 0.5) * scale, support = 2 * stretch, inverse = 1 / stretch, sum = 0;
    int64_t first = (int64_t)(center - support + 0.5), end = (int64_t)(center + support + 0.5);
    first = first < 0 ? 0 : first;
    end = end > from ? from : end;
    for (int64_t k = 0; k < end - first; k++) {
        exact[k] = bicubic(((double)(k + first) - center + 0.5) * inverse);
        sum += exact[k];
    }
    for (int64_t k = 0; k < end - first; k++) {
        double share = sum != 0 ? exact[k] / sum : exact[k];
        mix->weight[i * mix->room + k] = (int32_t)((share < 0 ? -0.5 : 0.5) + share * (1 << PRECISION));
    }
    mix->first[i] = first;
    mix->count[i] = end - first;
}

static struct error mix_make(struct mix *mix, int64_t from, int64_t to)
{
    double scale = (double)from / (double)to, stretch = scale < 1 ? 1 : scale;
    *mix = (struct mix){.size = to, .room = (int64_t)ceil(2 * stretch) * 2 + 1};
    mix->first = memory_alloc(to, sizeof *mix->first);
    mix->count = memory_alloc(to, sizeof *mix->count);
    mix->weight = memory_alloc(to, mix->room * (int64_t)sizeof *mix->weight);
    double *exact = memory_alloc(mix->room, sizeof *exact);
    struct error e = mix->first && mix->count && mix->weight && exact ? ok() : error_memory("resizing a picture");
    for (int64_t i = 0; i < to && e.code == ERROR_NONE; i++)
        mix_one(mix, i, from, scale, stretch, exact);
    memory_free(exact);
    if (e.code != ERROR_NONE)
        mix_free(mix);
    return e;
}

/* Output i of a line whose pixels lie `stride` bytes apart. */
static void mix_pixel(uint8_t *to, const struct mix *mix, int64_t i, const uint8_t *line, int64_t stride)
{
    const int32_t *weight = mix->weight + i * mix->room;
    int32_t sum[3] = {1 << (PRECISION - 1), 1 << (PRECISION - 1), 1 << (PRECISION - 1)};
    const uint8_t *pixel = line + mix->first[i] * stride;
    for (int64_t k = 0; k < mix->count[i]; k++, pixel += stride)
        for (int c = 0; c < 3; c++)
            sum[c] += pixel[c] * weight[k];
    for (int c = 0; c < 3; c++) {
        int32_t value = sum[c] >> PRECISION;
        to[c] = value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
    }
}

static struct error resize_width(struct picture *to, const struct picture *from, int64_t width)
{
    struct mix mix;
    TRY(mix_make(&mix, from->width, width));
    struct error e = picture_new(to, width, from->height);
    for (int64_t y = 0; y < from->height && e.code == ERROR_NONE; y++)
        for (int64_t x = 0; x < width; x++)
            mix_pixel(to->rgb + 3 * (y * width + x), &mix, x, from->rgb + 3 * from->width * y, 3);
    mix_free(&mix);
    return e;
}

static struct error resize_height(struct picture *to, const struct picture *from, int64_t height)
{
    struct mix mix;
    TRY(mix_make(&mix, from->height, height));
    struct error e = picture_new(to, from->width, height);
    for (int64_t y = 0; y < height && e.code == ERROR_NONE; y++)
        for (int64_t x = 0; x < from->width; x++)
            mix_pixel(to->rgb + 3 * (y * from->width + x), &mix, y, from->rgb + 3 * x, 3 * from->width);
    mix_free(&mix);
    return e;
}

/* Values are rounded between the two passes, so their order matters. Since version 13 Pillow does the columns first if
 * that removes much more than the rows would: if the height shrinks by more than twice as much as the width. */
static bool height_first(const struct picture *from, int64_t width, int64_t height)
{
    return height < from->height && from->height - height > 2 * (from->width - width);
}

static struct error copy(struct picture *to, const struct picture *from)
{
    TRY(picture_new(to, from->width, from->height));
    memcpy(to->rgb, from->rgb, (size_t)(3 * from->width * from->height));
    return ok();
}

struct error picture_resize(struct picture *to, const struct picture *from, int64_t width, int64_t height)
{
    *to = (struct picture){0};
    if (width < 1 || height < 1 || from->width < 1 || from->height < 1)
        return error_input("cannot resize a picture of %lld x %lld pixels to %lld x %lld", (long long)from->width,
                           (long long)from->height, (long long)width, (long long)height);
    if (width == from->width && height == from->height)
        return copy(to, from);
    if (width == from->width) /* a pass is skipped if nothing changes along its axis */
        return resize_height(to, from, height);
    if (height == from->height)
        return resize_width(to, from, width);
    bool height_leads = height_first(from, width, height);
    struct picture between;
    TRY(height_leads ? resize_height(&between, from, height) : resize_width(&between, from, width));
    struct error e = height_leads ? resize_width(to, &between, width) : resize_height(to, &between, height);
    picture_free(&between);
    return e;
}

/* The part of size width x height whose upper left corner is (x, y). */
static struct error cut_out(struct picture *to, const struct picture *from, int64_t x, int64_t y, int64_t width,
                            int64_t height)
{
    TRY(picture_new(to, width, height));
    picture_paste(to, from, -x, -y);
    return ok();
}

struct error picture_fit(struct picture *to, const struct picture *from, int64_t width, int64_t height, enum fit fit)
{
    int64_t part_width = from->width, part_height = from->height;
    if (fit == FIT_CROP && from->width * height > from->height * width)
        part_width = from->height * width / height;
    else if (fit == FIT_CROP)
        part_height = from->width * height / width;
    if (part_width == from->width && part_height == from->height)
        return picture_resize(to, from, width, height);
    struct picture part;
    part_width = part_width < 1 ? 1 : part_width;
    part_height = part_height < 1 ? 1 : part_height;
    *to = (struct picture){0};
    TRY(cut_out(&part, from, (from->width - part_width) / 2, (from->height - part_height) / 2, part_width,
                part_height));
    struct error e = picture_resize(to, &part, width, height);
    picture_free(&part);
    return e;
}
