#include "zo/masks.h"

#include <string.h>

#include "base/memory.h"

/* Are they alike up to a pixel, which a program that makes masks of another size may have rounded away? */
static bool same_shape(const struct picture *mask, const struct picture *photo)
{
    int64_t away = mask->width * photo->height - mask->height * photo->width;
    int64_t pixel = photo->width > photo->height ? photo->width : photo->height;
    return (away < 0 ? -away : away) <= pixel;
}

/* Pillow's convert("L"), which leaves grey as it is. */
static uint8_t grey_of(const uint8_t *rgb)
{
    return (uint8_t)((rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16);
}

static struct error take_grey(uint8_t **grey, const char *path, const struct picture *fitted)
{
    int64_t pixels = fitted->width * fitted->height;
    bool black = true;
    *grey = memory_alloc(pixels, 1);
    if (!*grey)
        return error_memory("a mask");
    for (int64_t i = 0; i < pixels; i++) {
        (*grey)[i] = grey_of(fitted->rgb + 3 * i);
        black = black && (*grey)[i] == 0;
    }
    if (!black)
        return ok();
    memory_free(*grey);
    *grey = NULL;
    return error_input("%s: is black all over, or where data.fit leaves something of it, so nothing of its photo would "
                       "count; expected "
                       "white where the subject is",
                       path);
}

struct error mask_read(uint8_t **grey, const char *path, const struct picture *photo, int64_t side, enum fit fit)
{
    static const uint8_t black[3] = {0};
    struct picture mask, fitted;
    *grey = NULL;
    TRY(picture_read(&mask, path, black));
    struct error e = ok();
    if (!same_shape(&mask, photo))
        e = error_input("%s: has %lldx%lld pixels, its photo %lldx%lld; expected the same, or the same shape", path,
                        (long long)mask.width, (long long)mask.height, (long long)photo->width,
                        (long long)photo->height);
    else
        e = error_in(picture_fit(&fitted, &mask, side, side, fit), "%s", path);
    picture_free(&mask);
    TRY(e);
    e = take_grey(grey, path, &fitted);
    picture_free(&fitted);
    return e;
}

/* The mean of a square of pixels. */
static float mean_of(const uint8_t *grey, int64_t side, int64_t factor)
{
    int64_t sum = 0;
    for (int64_t y = 0; y < factor; y++)
        for (int64_t x = 0; x < factor; x++)
            sum += grey[y * side + x];
    return (float)((double)sum / (255.0 * (double)(factor * factor)));
}

void mask_weights(float *weights, const uint8_t *grey, int64_t side, int64_t factor, bool mirrored)
{
    int64_t places = side / factor;
    for (int64_t y = 0; y < places; y++)
        for (int64_t x = 0; x < places; x++) {
            int64_t from = mirrored ? places - 1 - x : x;
            *weights++ = grey ? mean_of(grey + (y * side + from) * factor, side, factor) : 1;
        }
}
