#include "report/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/text.h"
#include "files/file.h"

struct events {
    int file;
    int64_t end; /* of the last whole record */
    char path[PATH_SIZE];
};

static const char file_prefix[] = "events.out.tfevents.";
static const char file_suffix[] = ".zoodip";

/* -------------------------------------------------------------------------------- protobuf */

struct bytes {
    uint8_t data[2048]; /* 16 scalars of 64-byte tags and some */
    int64_t size;
};

enum wire { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_LENGTH = 2, WIRE_FIXED32 = 5 };

static void put_byte(struct bytes *b, uint8_t byte)
{
    if (b->size < (int64_t)sizeof b->data)
        b->data[b->size++] = byte;
}

static void put_fixed(struct bytes *b, uint64_t value, int count)
{
    for (int i = 0; i < count; i++)
        put_byte(b, (uint8_t)(value >> (8 * i)));
}

static void put_varint(struct bytes *b, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        put_byte(b, (uint8_t)(value | 0x80));
    put_byte(b, (uint8_t)value);
}

static void put_field(struct bytes *b, int number, enum wire wire)
{
    put_varint(b, (uint64_t)number << 3 | wire);
}

static void put_block(struct bytes *b, int number, const void *data, int64_t size)
{
    put_field(b, number, WIRE_LENGTH);
    put_varint(b, (uint64_t)size);
    for (int64_t i = 0; i < size; i++)
        put_byte(b, ((const uint8_t *)data)[i]);
}

static void put_event_head(struct bytes *b, int64_t step)
{
    double seconds = clock_date();
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    put_field(b, 1, WIRE_FIXED64);
    put_fixed(b, bits, 8);
    put_field(b, 2, WIRE_VARINT);
    put_varint(b, (uint64_t)step);
}

static void put_scalar(struct bytes *summary, const struct scalar *scalar)
{
    struct bytes inner = {.size = 0};
    put_block(&inner, 1, scalar->tag, (int64_t)strnlen(scalar->tag, 64));
    put_field(&inner, 2, WIRE_FIXED32);
    put_fixed(&inner, float_to_bits((float)scalar->value), 4);
    put_block(summary, 1, inner.data, inner.size);
}

/* -------------------------------------------------------------------------------- records */

/* CRC-32C (Castagnoli), bit by bit: a scalar's record has some two hundred bytes, and pictures are rare. */
static uint32_t masked_crc(const uint8_t *data, int64_t size)
{
    uint32_t crc = 0xffffffff;
    for (int64_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

enum { RECORD_HEAD = 12, RECORD_TAIL = 4 };

/* `data` has room for the record's head before its `size` bytes and for its tail behind them. */
static struct error write_record(struct events *events, uint8_t *data, int64_t size)
{
    struct bytes head = {.size = 0}, tail = {.size = 0};
    put_fixed(&head, (uint64_t)size, 8);
    put_fixed(&head, masked_crc(head.data, 8), 4);
    put_fixed(&tail, masked_crc(data, size), 4);
    memcpy(data - RECORD_HEAD, head.data, RECORD_HEAD);
    memcpy(data + size, tail.data, RECORD_TAIL);
    return file_append(events->path, events->file, data - RECORD_HEAD, RECORD_HEAD + size + RECORD_TAIL, &events->end);
}

static struct error write_small(struct events *events, const struct bytes *data)
{
    uint8_t record[RECORD_HEAD + sizeof data->data + RECORD_TAIL];
    memcpy(record + RECORD_HEAD, data->data, (size_t)data->size);
    return write_record(events, record + RECORD_HEAD, data->size);
}

/* -------------------------------------------------------------------------------- files */

static bool is_event_file(const char *name)
{
    return strncmp(name, file_prefix, strlen(file_prefix)) == 0 && text_ends_with(name, file_suffix);
}

/* TensorBoard reads a folder's files in the order of their names, so a later file gets a greater number. */
static struct error create_file(struct events *events, const char *folder)
{
    for (long long number = (long long)time(NULL);; number++) {
        char name[64];
        snprintf(name, sizeof name, "%s%010lld%s", file_prefix, number, file_suffix);
        TRY(path_join(events->path, folder, name));
        events->file = open(events->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (events->file >= 0)
            return ok();
        if (errno != EEXIST)
            return error_errno("write", events->path);
    }
}

static struct error write_start(struct events *events, int64_t from_step)
{
    struct bytes version = {.size = 0}, restart = {.size = 0};
    put_event_head(&version, 0);
    put_block(&version, 3, "brain.Event:2", strlen("brain.Event:2"));
    TRY(write_small(events, &version));
    if (from_step == 0)
        return ok();
    put_event_head(&restart, from_step + 1);
    put_block(&restart, 7, (const uint8_t[]){1 << 3 | WIRE_VARINT, 1}, 2); /* status START */
    return write_small(events, &restart);
}

struct error events_open(struct events **events, const char *folder, int64_t from_step)
{
    if (from_step == 0)
        TRY(folder_clean(folder, is_event_file));
    struct events *made = memory_alloc(1, sizeof *made);
    if (!made)
        return error_memory("the event file");
    made->file = -1;
    struct error e = create_file(made, folder);
    if (e.code == ERROR_NONE)
        e = write_start(made, from_step);
    if (e.code != ERROR_NONE) {
        events_close(made);
        return e;
    }
    *events = made;
    return ok();
}

struct error events_add(struct events *events, int64_t step, const struct scalar *scalars, int64_t count)
{
    struct bytes event = {.size = 0}, summary = {.size = 0};
    put_event_head(&event, step);
    for (int64_t i = 0; i < count; i++)
        put_scalar(&summary, &scalars[i]);
    put_block(&event, 5, summary.data, summary.size);
    return write_small(events, &event);
}

/* The beginnings of the messages that a picture is in, from the outermost to where its PNG begins. */
static void wrap_picture(struct bytes *event, int64_t step, const char *tag, const struct picture *picture,
                         int64_t png_size)
{
    struct bytes image = {.size = 0}, value = {.size = 0}, summary = {.size = 0};
    const int64_t sides[] = {picture->height, picture->width, 3};
    for (int i = 0; i < 3; i++) {
        put_field(&image, i + 1, WIRE_VARINT);
        put_varint(&image, (uint64_t)sides[i]);
    }
    put_field(&image, 4, WIRE_LENGTH);
    put_varint(&image, (uint64_t)png_size);
    put_block(&value, 1, tag, (int64_t)strlen(tag));
    put_field(&value, 4, WIRE_LENGTH);
    put_varint(&value, (uint64_t)(image.size + png_size));
    put_field(&summary, 1, WIRE_LENGTH);
    put_varint(&summary, (uint64_t)(value.size + image.size + png_size));
    put_event_head(event, step);
    put_field(event, 5, WIRE_LENGTH);
    put_varint(event, (uint64_t)(summary.size + value.size + image.size + png_size));
    const struct bytes *const inner[] = {&summary, &value, &image};
    for (int i = 0; i < 3; i++)
        for (int64_t j = 0; j < inner[i]->size; j++)
            put_byte(event, inner[i]->data[j]);
}

struct error events_add_picture(struct events *events, int64_t step, const char *tag, const struct picture *picture)
{
    struct bytes event = {.size = 0};
    char shown[201];
    uint8_t *png;
    int64_t size;
    snprintf(shown, sizeof shown, "%.*s", text_fitting(tag, (int)sizeof shown - 1), tag);
    text_show_safely(shown);
    TRY(picture_encode(picture, &png, &size));
    wrap_picture(&event, step, shown, picture, size);
    uint8_t *record = memory_alloc(RECORD_HEAD + event.size + size + RECORD_TAIL, 1);
    struct error e = record ? ok() : error_memory("a picture");
    if (record) {
        memcpy(record + RECORD_HEAD, event.data, (size_t)event.size);
        memcpy(record + RECORD_HEAD + event.size, png, (size_t)size);
        e = write_record(events, record + RECORD_HEAD, event.size + size);
    }
    memory_free(record);
    memory_free(png);
    return e;
}

void events_close(struct events *events)
{
    if (events && events->file >= 0)
        close(events->file);
    memory_free(events);
}
