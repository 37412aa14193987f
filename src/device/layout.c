/* Places a program's tensors in the arena: large ones first, so that small ones fit into the gaps. */
#include <stdlib.h>

#include "base/memory.h"
#include "device/backend.h"

static int larger_first(const void *a, const void *b)
{
    const struct span *x = *(struct span *const *)a, *y = *(struct span *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->born < y->born ? -1 : 1;
}

static int lower_first(const void *a, const void *b)
{
    const struct span *x = *(struct span *const *)a, *y = *(struct span *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* The lowest place for `bytes` bytes beside the spans of `near` [count], which it sorts by offset. */
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

/* Which tensors exist at the same time. Tensors are numbered by birth. Of two that overlap in time, the later one was
 * born while the earlier one was alive; so each tensor needs to be compared only with those alive at its birth. */
struct layout {
    struct span *takes; /* offset -1: has no place yet */
    int64_t count;
    int64_t *there; /* alive at the birth of tensor i: there[first[i]] .. there[first[i + 1] - 1] */
    int64_t *first; /* [count + 1] */
    int64_t there_count, there_room;
    struct span **order; /* [count], larger first */
    struct span **near;  /* [count] */
};

static void layout_free(struct layout *l)
{
    memory_free(l->there);
    memory_free(l->first);
    memory_free(l->order);
    memory_free(l->near);
}

static bool add_there(struct layout *l, int64_t take)
{
    int64_t *more = memory_grow(l->there, l->there_count, &l->there_room, sizeof *more);
    if (!more)
        return false;
    l->there = more;
    l->there[l->there_count++] = take;
    return true;
}

/* Alive at the birth of tensor i: those alive at the birth of i - 1, and i - 1 itself, unless dropped since. */
static bool find_there(struct layout *l)
{
    for (int64_t i = 0; i < l->count; i++) {
        l->first[i] = l->there_count;
        for (int64_t k = i ? l->first[i - 1] : 0; k < l->first[i]; k++)
            if (l->takes[l->there[k]].died > l->takes[i].born && !add_there(l, l->there[k]))
                return false;
        if (i && l->takes[i - 1].died > l->takes[i].born && !add_there(l, i - 1))
            return false;
    }
    l->first[l->count] = l->there_count;
    return true;
}

static struct error layout_new(struct layout *l, const struct program *p)
{
    int64_t count = p->take_count;
    *l = (struct layout){.takes = p->takes, .count = count};
    l->first = memory_alloc(count + 1, sizeof *l->first);
    l->order = memory_alloc(count, sizeof *l->order);
    l->near = memory_alloc(count, sizeof *l->near);
    if (!l->first || !l->order || !l->near || !find_there(l)) {
        layout_free(l);
        return error_memory("a program's plan");
    }
    for (int64_t i = 0; i < count; i++) {
        l->takes[i].offset = -1;
        l->order[i] = &l->takes[i];
    }
    qsort(l->order, (size_t)count, sizeof *l->order, larger_first);
    return ok();
}

/* Puts those that overlap s in time and have a place into l->near; returns their number. */
static int64_t find_near(struct layout *l, const struct span *s)
{
    int64_t count = 0, take = s - l->takes;
    for (int64_t k = l->first[take]; k < l->first[take + 1]; k++)
        if (l->takes[l->there[k]].offset >= 0)
            l->near[count++] = &l->takes[l->there[k]];
    for (int64_t k = take + 1; k < l->count && l->takes[k].born < s->died; k++)
        if (l->takes[k].offset >= 0)
            l->near[count++] = &l->takes[k];
    return count;
}

struct error layout_make(struct program *p)
{
    struct layout l;
    TRY(layout_new(&l, p));
    for (int64_t i = 0; i < l.count; i++) {
        struct span *s = l.order[i];
        s->offset = lowest_place(s->bytes, l.near, find_near(&l, s));
        p->bytes = s->offset + s->bytes > p->bytes ? s->offset + s->bytes : p->bytes;
    }
    layout_free(&l);
    return ok();
}
