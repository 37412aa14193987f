#include "files/picture_decode.h"

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

/* An animation's first picture may be a part of its canvas, which is transparent elsewhere. */
static struct error read_frame(struct decoded *d, const WebPIterator *frame)
{
    const WebPData *data = &frame->fragment;
    WebPBitstreamFeatures features;
    if (!frame->complete || WebPGetFeatures(data->bytes, data->size, &features) != VP8_STATUS_OK)
        return error_input("WebP is cut short");
    int64_t stride = d->width * 4, first = 4 * (d->width * frame->y_offset + frame->x_offset);
    if (features.width != frame->width || features.height != frame->height ||
        frame->x_offset + frame->width > d->width || frame->y_offset + frame->height > d->height)
        return error_input("damaged WebP: its picture and its canvas do not agree");
    if (!WebPDecodeRGBAInto(data->bytes, data->size, d->pixels + first, (size_t)(stride * d->height - first),
                            (int)stride))
        return error_input("damaged WebP, or cut short");
    return ok();
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
    struct error e =
        decoded_new(d, WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH), WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT), 4);
    if (e.code == ERROR_NONE)
        e = read_frame(d, &frame);
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
