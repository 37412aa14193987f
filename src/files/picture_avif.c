/* Compiled where libavif was found. */
#include "files/picture_decode.h"

#include <avif/avif.h>

#if AVIF_VERSION >= 1000000
#define MIRROR_AXIS axis
#else
#define MIRROR_AXIS mode
#endif

static struct error fail(const avifDecoder *decoder, avifResult result)
{
    if (result == AVIF_RESULT_OUT_OF_MEMORY)
        return error_memory("an AVIF decoder");
    const char *why = decoder->diag.error;
    return error_input("damaged AVIF, or cut short: %.200s%s%.200s", avifResultToString(result), *why ? ": " : "", why);
}

/* The boxes irot (a quarter turn to the left, so often) and imir (then a mirror: axis 1 swaps left and right) as the
 * orientation that EXIF would have for them. They count, and not EXIF's, as in Pillow; XMP's where both say nothing. */
static int read_orientation(const avifImage *image)
{
    static const int turns[4][3] = {{1, 4, 2}, {8, 5, 7}, {3, 2, 4}, {6, 7, 5}}; /* without imir, along axis 0, 1 */
    bool turned = image->transformFlags & AVIF_TRANSFORM_IROT, mirrored = image->transformFlags & AVIF_TRANSFORM_IMIR;
    int found = turns[turned ? image->irot.angle & 3 : 0][mirrored ? 1 + (image->imir.MIRROR_AXIS & 1) : 0];
    if (found == 1 && exif_orientation(image->exif.data, (int64_t)image->exif.size) == 0)
        return xmp_orientation(image->xmp.data, (int64_t)image->xmp.size);
    return found;
}

static struct error decode(struct decoded *d, avifDecoder *decoder, const uint8_t *bytes, int64_t size)
{
    decoder->maxThreads = 1;
    decoder->imageSizeLimit = PICTURE_PIXELS;
    decoder->strictFlags &= ~(avifStrictFlags)(AVIF_STRICT_CLAP_VALID | AVIF_STRICT_PIXI_REQUIRED); /* as Pillow */
    avifResult result = avifDecoderSetIOMemory(decoder, bytes, (size_t)size);
    if (result == AVIF_RESULT_OK)
        result = avifDecoderParse(decoder);
    if (result == AVIF_RESULT_OK)
        result = avifDecoderNextImage(decoder);
    if (result != AVIF_RESULT_OK)
        return fail(decoder, result);
    const avifImage *image = decoder->image;
    TRY(decoded_new(d, image->width, image->height, decoder->alphaPresent ? 4 : 3));
    d->orientation = read_orientation(image);
    avifRGBImage rgb;
    avifRGBImageSetDefaults(&rgb, image);
    rgb.depth = 8;
    rgb.format = d->channels == 4 ? AVIF_RGB_FORMAT_RGBA : AVIF_RGB_FORMAT_RGB;
    rgb.pixels = d->pixels;
    rgb.rowBytes = (uint32_t)(d->channels * d->width);
    result = avifImageYUVToRGB(image, &rgb);
    return result == AVIF_RESULT_OK ? ok() : fail(decoder, result);
}

struct error avif_decode(struct decoded *d, const uint8_t *bytes, int64_t size)
{
    avifDecoder *decoder = avifDecoderCreate();
    if (!decoder)
        return error_memory("an AVIF decoder");
    struct error e = decode(d, decoder, bytes, size);
    avifDecoderDestroy(decoder);
    return e;
}
