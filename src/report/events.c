#include "report/events.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/text.h"
#include "files/file.h"

struct events {
    FILE *stream;
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

/* CRC-32C (Castagnoli), bit by bit: a record has some two hundred bytes. */
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

static struct error write_record(struct events *events, const struct bytes *data)
{
    struct bytes head = {.size = 0}, tail = {.size = 0};
    put_fixed(&head, (uint64_t)data->size, 8);
    put_fixed(&head, masked_crc(head.data, 8), 4);
    put_fixed(&tail, masked_crc(data->data, data->size), 4);
    const struct bytes *parts[] = {&head, data, &tail};
    for (int i = 0; i < 3; i++)
        if (fwrite(parts[i]->data, 1, (size_t)parts[i]->size, events->stream) != (size_t)parts[i]->size)
            return error_errno("write", events->path);
    return ok();
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
        events->stream = fopen(events->path, "wbxe");
        if (events->stream)
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
    TRY(write_record(events, &version));
    if (from_step == 0)
        return ok();
    put_event_head(&restart, from_step + 1);
    put_block(&restart, 7, (const uint8_t[]){1 << 3 | WIRE_VARINT, 1}, 2); /* status START */
    return write_record(events, &restart);
}

struct error events_open(struct events **events, const char *folder, int64_t from_step)
{
    if (from_step == 0)
        TRY(folder_clean(folder, is_event_file));
    struct events *made = memory_alloc(1, sizeof *made);
    if (!made)
        return error_memory("the event file");
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
    return write_record(events, &event);
}

struct error events_flush(struct events *events)
{
    return fflush(events->stream) == 0 ? ok() : error_errno("write", events->path);
}

void events_close(struct events *events)
{
    if (events && events->stream)
        fclose(events->stream);
    memory_free(events);
}
