/* Places a program's tensors in the arena: large ones first, so that small ones fit into the gaps. Where that leaves
 * gaps, so that it takes more than the tensors that exist at one time, those that exist longest come first instead, if
 * that takes less. */
#include <stdlib.h>

#include "base/memory.h"
#include "device/backend.h"

static int larger_first(const void *a, const void *b)
{
    const struct span *x = *(struct span *const *)a, *y = *(struct span *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->allocated < y->allocated ? -1 : 1;
}

static int longer_first(const void *a, const void *b)
{
    const struct span *x = *(struct span *const *)a, *y = *(struct span *const *)b;
    int64_t time_x = x->freed - x->allocated, time_y = y->freed - y->allocated;
    if (time_x != time_y)
        return time_x > time_y ? -1 : 1;
    return larger_first(a, b);
}

static int lower_first(const void *a, const void *b)
{
    const struct span *x = *(struct span *const *)a, *y = *(struct span *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* The lowest place for `bytes` bytes that overlaps none of the spans `near` [count], which it sorts by offset. */
static int64_t lowest_place(int64_t bytes, struct span **near, int64_t count)
{
    int64_t at = 0;
    qsort(near, (size_t)count, sizeof *near, lower_first);
    for (int64_t i = 0; i < count; i++) {
        if (near[i]->offset - at >= bytes)
            break;
        int64_t end = near[i]->offset + near[i]->bytes;
        at = end > at ? end : at;
    }
    return at;
}

/* Which tensors exist at the same time. Tensors are numbered in the order of allocation. Of two that overlap in time,
 * the later one was allocated while the earlier one existed; so a tensor needs to be compared only with those that
 * exist when it is allocated. */
struct layout {
    struct span *spans; /* offset -1: has no place yet */
    int64_t count;
    int64_t *alive; /* when tensor i is allocated: alive[first[i]] .. alive[first[i + 1] - 1] */
    int64_t *first; /* [count + 1] */
    int64_t alive_count, alive_room;
    struct span **order; /* [count]: the order in which they are placed */
    struct span **near;  /* [count] */
};

static void layout_free(struct layout *l)
{
    memory_free(l->alive);
    memory_free(l->first);
    memory_free(l->order);
    memory_free(l->near);
}

static bool add_alive(struct layout *l, int64_t i)
{
    int64_t *more = memory_grow(l->alive, l->alive_count, &l->alive_room, sizeof *more);
    if (!more)
        return false;
    l->alive = more;
    l->alive[l->alive_count++] = i;
    return true;
}

/* When tensor i is allocated: those that existed when i - 1 was, and i - 1 itself, unless freed since. */
static bool find_alive(struct layout *l)
{
    for (int64_t i = 0; i < l->count; i++) {
        l->first[i] = l->alive_count;
        for (int64_t k = i ? l->first[i - 1] : 0; k < l->first[i]; k++)
            if (l->spans[l->alive[k]].freed > l->spans[i].allocated && !add_alive(l, l->alive[k]))
                return false;
        if (i && l->spans[i - 1].freed > l->spans[i].allocated && !add_alive(l, i - 1))
            return false;
    }
    l->first[l->count] = l->alive_count;
    return true;
}

static struct error layout_new(struct layout *l, const struct program *p)
{
    int64_t count = p->span_count;
    *l = (struct layout){.spans = p->spans, .count = count};
    l->first = memory_alloc(count + 1, sizeof *l->first);
    l->order = memory_alloc(count, sizeof *l->order);
    l->near = memory_alloc(count, sizeof *l->near);
    if (!l->first || !l->order || !l->near || !find_alive(l)) {
        layout_free(l);
        return error_memory("a program's plan");
    }
    for (int64_t i = 0; i < count; i++)
        l->order[i] = &l->spans[i];
    return ok();
}

/* Puts those that overlap s in time and have a place into l->near; returns their number. */
static int64_t find_near(struct layout *l, const struct span *s)
{
    int64_t count = 0, i = s - l->spans;
    for (int64_t k = l->first[i]; k < l->first[i + 1]; k++)
        if (l->spans[l->alive[k]].offset >= 0)
            l->near[count++] = &l->spans[l->alive[k]];
    for (int64_t k = i + 1; k < l->count && l->spans[k].allocated < s->freed; k++)
        if (l->spans[k].offset >= 0)
            l->near[count++] = &l->spans[k];
    return count;
}

/* Places all tensors in the order of `compare`; returns the bytes that this takes. */
static int64_t place(struct layout *l, int (*compare)(const void *, const void *))
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < l->count; i++)
        l->spans[i].offset = -1;
    qsort(l->order, (size_t)l->count, sizeof *l->order, compare);
    for (int64_t i = 0; i < l->count; i++) {
        struct span *s = l->order[i];
        s->offset = lowest_place(s->bytes, l->near, find_near(l, s));
        bytes = s->offset + s->bytes > bytes ? s->offset + s->bytes : bytes;
    }
    return bytes;
}

/* The most bytes of tensors that exist at one time: no order takes less. */
static int64_t most_alive(const struct layout *l)
{
    int64_t most = 0;
    for (int64_t i = 0; i < l->count; i++) {
        int64_t bytes = l->spans[i].bytes;
        for (int64_t k = l->first[i]; k < l->first[i + 1]; k++)
            bytes += l->spans[l->alive[k]].bytes;
        most = bytes > most ? bytes : most;
    }
    return most;
}

struct error layout_make(struct program *p)
{
    struct layout l;
    TRY(layout_new(&l, p));
    p->bytes = place(&l, larger_first);
    if (p->bytes > most_alive(&l)) {
        int64_t longer = place(&l, longer_first);
        p->bytes = longer < p->bytes ? longer : place(&l, larger_first);
    }
    layout_free(&l);
    return ok();
}
