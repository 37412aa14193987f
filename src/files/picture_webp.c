#include "files/picture_decode.h"

#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

/* EXIF's orientation, or else XMP's: a chunk of each may follow the pixels. */
static int read_orientation(const WebPDemuxer *demuxer)
{
    WebPChunkIterator chunk;
    int found = 0;
    if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk)) {
        found = exif_orientation(chunk.chunk.bytes, (int64_t)chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    if (!found && WebPDemuxGetChunk(demuxer, "XMP ", 1, &chunk)) {
        found = xmp_orientation(chunk.chunk.bytes, (int64_t)chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    return found;
}

/* The pixels, for WebPFree: libwebp's memory, which a header that lies about the size does not touch. */
static struct error decode_frame(uint8_t **rgba, const WebPIterator *frame)
{
    int width, height;
    *rgba = WebPDecodeRGBA(frame->fragment.bytes, frame->fragment.size, &width, &height);
    if (!*rgba)
        return error_input("damaged WebP, or cut short");
    if (width == frame->width && height == frame->height)
        return ok();
    WebPFree(*rgba);
    *rgba = NULL;
    return error_input("damaged WebP: it says twice how large its picture is");
}

/* An animation's first picture may be a part of its canvas, which is transparent elsewhere. */
static struct error read_frame(struct decoded *d, const WebPIterator *frame, int64_t width, int64_t height)
{
    uint8_t *rgba;
    if (width * height > PICTURE_PIXELS)
        return error_input("%lld x %lld pixels are too many", (long long)width, (long long)height);
    if (frame->x_offset + frame->width > width || frame->y_offset + frame->height > height)
        return error_input("damaged WebP: its picture is larger than its canvas");
    TRY(decode_frame(&rgba, frame));
    struct error e = decoded_new(d, width, height, 4);
    for (int64_t y = 0; y < frame->height && e.code == ERROR_NONE; y++)
        memcpy(d->pixels + 4 * ((frame->y_offset + y) * width + frame->x_offset), rgba + 4 * y * frame->width,
               (size_t)frame->width * 4);
    WebPFree(rgba);
    return e;
}

/* As Pillow has it: without the flag that there is alpha, what alpha the stream has does not count. */
static void forget_alpha(struct decoded *d)
{
    for (int64_t i = 0; i < d->width * d->height; i++)
        d->pixels[4 * i + 3] = 255;
}

static struct error decode(struct decoded *d, const WebPDemuxer *demuxer, bool alpha)
{
    WebPIterator frame;
    d->orientation = read_orientation(demuxer);
    if (!WebPDemuxGetFrame(demuxer, 1, &frame))
        return error_input("WebP without a picture");
    struct error e = read_frame(d, &frame, WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH),
                                WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT));
    if (e.code == ERROR_NONE && !alpha)
        forget_alpha(d);
    WebPDemuxReleaseIterator(&frame);
    return e;
}

struct error webp_decode(struct decoded *d, const uint8_t *bytes, int64_t size)
{
    WebPBitstreamFeatures features;
    const WebPData data = {bytes, (size_t)size};
    if (WebPGetFeatures(bytes, (size_t)size, &features) != VP8_STATUS_OK)
        return error_input("damaged WebP, or cut short");
    WebPDemuxer *demuxer = WebPDemux(&data);
    if (!demuxer) /* the size of its parts, and their order, are wrong; or memory, which it does not tell apart */
        return error_input("damaged WebP, or cut short");
    struct error e = decode(d, demuxer, features.has_alpha);
    WebPDemuxDelete(demuxer);
    return e;
}
