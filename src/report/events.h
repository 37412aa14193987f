/* report/events.h
 *
 * TensorBoard's event file, written by hand. The file is a chain of records
 *     length (8 bytes), masked CRC-32C of length (4), data, masked CRC-32C of data (4), all little-endian,
 *     masked(c) = (c rotated right by 15) + 0xa282ead8
 * and each record's data is one Event of TensorFlow's event.proto: wall_time = 1 (double), step = 2 (varint),
 * file_version = 3 (text), summary = 5 {value = 1 {tag = 1, simple_value = 2 (float) or
 * image = 4 {height = 1, width = 2, colorspace = 3 (3: RGB), encoded_image_string = 4 (PNG)}}}, session_log = 7 {status = 1}.
 */
#ifndef ZOODIP_REPORT_EVENTS_H
#define ZOODIP_REPORT_EVENTS_H

#include <stdint.h>

#include "base/error.h"
#include "files/picture.h"

struct events;

struct scalar {
    const char *tag; /* at most 64 bytes */
    double value;
};

/* Makes FOLDER/events.out.tfevents.SECONDS.zoodip. from_step 0 starts over: older files of that kind are removed. With
 * from_step > 0 the new file tells TensorBoard to forget later steps of older files. */
struct error events_open(struct events **events, const char *folder, int64_t from_step);

/* Adds go to the system at once, whole or, after an error, not at all.
 *
 * One event of at most 16 scalars; one with a picture, whose tag is shown safely (base/text.h) and cut at 200 bytes.
 * In a tag the part before a slash is TensorBoard's group. */
struct error events_add(struct events *events, int64_t step, const struct scalar *scalars, int64_t count);
struct error events_add_picture(struct events *events, int64_t step, const char *tag, const struct picture *picture);
void events_close(struct events *events);

#endif
