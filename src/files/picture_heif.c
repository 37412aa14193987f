/* Compiled where libheif was found. */
#include "files/picture_decode.h"

#include <string.h>

#include <libheif/heif.h>

enum { SIDE_LIMIT = 1 << PICTURE_BITS / 2 }; /* libheif's kind of limit: the square has PICTURE_PIXELS */

struct work {
    struct heif_context *context;
    struct heif_image_handle *handle;
    struct heif_decoding_options *options;
    struct heif_image *image;
};

static struct error failed(struct heif_error e)
{
    if (e.code == heif_error_Memory_allocation_error && e.subcode != heif_suberror_Security_limit_exceeded)
        return error_memory("a HEIC decoder");
    if (e.code == heif_error_Unsupported_feature || e.code == heif_error_Unsupported_filetype)
        return error_input("HEIC that libheif does not decode here: %.200s; install libheif-plugin-libde265 if it is "
                           "missing, or convert to PNG",
                           e.message);
    return e.code ? error_input("damaged HEIC, or cut short: %.300s", e.message) : ok();
}

/* libheif turns the picture itself (irot, imir); EXIF repeats what it has done. */
static struct error copy_pixels(struct decoded *d, const struct heif_image *image, int channels)
{
    int stride = 0;
    const uint8_t *rows = heif_image_get_plane_readonly(image, heif_channel_interleaved, &stride);
    int64_t width = heif_image_get_width(image, heif_channel_interleaved);
    int64_t height = heif_image_get_height(image, heif_channel_interleaved);
    if (!rows || stride < channels * width)
        return error_input("damaged HEIC: it has no pixels");
    TRY(decoded_new(d, width, height, channels));
    for (int64_t y = 0; y < height; y++)
        memcpy(d->pixels + y * channels * width, rows + y * stride, (size_t)(channels * width));
    return ok();
}

static struct error decode(struct decoded *d, struct work *w, const uint8_t *bytes, int64_t size)
{
    w->context = heif_context_alloc();
    w->options = heif_decoding_options_alloc();
    if (!w->context || !w->options)
        return error_memory("a HEIC decoder");
    heif_context_set_maximum_image_size_limit(w->context, SIDE_LIMIT);
    w->options->convert_hdr_to_8bit = 1;
    TRY(failed(heif_context_read_from_memory_without_copy(w->context, bytes, (size_t)size, NULL)));
    TRY(failed(heif_context_get_primary_image_handle(w->context, &w->handle)));
    int64_t width = heif_image_handle_get_width(w->handle), height = heif_image_handle_get_height(w->handle);
    if (width * height > PICTURE_PIXELS)
        return error_input("%lld x %lld pixels are too many", (long long)width, (long long)height);
    bool alpha = heif_image_handle_has_alpha_channel(w->handle);
    TRY(failed(heif_decode_image(w->handle, &w->image, heif_colorspace_RGB,
                                 alpha ? heif_chroma_interleaved_RGBA : heif_chroma_interleaved_RGB, w->options)));
    return copy_pixels(d, w->image, alpha ? 4 : 3);
}

struct error heif_decode(struct decoded *d, const uint8_t *bytes, int64_t size)
{
    struct work w = {0};
    struct error e = decode(d, &w, bytes, size);
    if (w.image)
        heif_image_release(w.image);
    if (w.handle)
        heif_image_handle_release(w.handle);
    if (w.options)
        heif_decoding_options_free(w.options);
    if (w.context)
        heif_context_free(w.context);
    return e;
}
