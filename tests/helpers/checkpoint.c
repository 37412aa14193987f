/* checkpoint write FOLDER RECIPE KEEP STEP...   writes a made-up state after each STEP
 * checkpoint resume FOLDER RECIPE               prints "step N hash H" or "none"; warnings and errors on stderr
 * checkpoint read RECIPE FILE...                for each file "step N hash H", or "refused CODE: why" and whether
 *                                               the state is unchanged
 * The environment may name the shape, DIM, and what a run stands on besides: MODEL, PICTURES, ORDER, CAPTIONS, DEVICE.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "helper.h"
#include "zo/checkpoint.h"

enum { DIM = 24, TAU = 7 };

static struct error new_state(struct state *s)
{
    const char *dim = getenv("DIM");
    return state_new(s, dim ? atoll(dim) : DIM, TAU, 1e-3);
}

static void make_up(struct state *s, int64_t step)
{
    uint64_t at = (uint64_t)step;
    s->step = step;
    s->subspace.filled = step % TAU;
    s->subspace.removed_rows = step / TAU % TAU;
    rng_normals(0, at, 0, 0, s->dim, s->embedding);
    rng_normals(0, at, 1, 0, s->dim, s->m);
    rng_normals(0, at, 2, 0, s->dim, s->v);
    rng_normals(0, at, 3, 0, s->subspace.filled * s->dim, s->subspace.history);
    rng_normals(0, at, 4, 0, s->subspace.removed_rows * s->dim, s->subspace.removed);
}

static void print_state(const struct state *s)
{
    printf("step %lld updates %lld hash %08x\n", (long long)s->step, (long long)s->step, state_hash(s));
}

static const char *named(const char *name, const char *fallback)
{
    const char *value = getenv(name);
    return value ? value : fallback;
}

static struct origin origin_of(const char *recipe)
{
    return (struct origin){{recipe, named("MODEL", "m"), named("PICTURES", "3, p"), named("ORDER", "o"),
                            named("CAPTIONS", "c"), named("DEVICE", "d")}};
}

static struct error write_all(struct state *s, int argc, char **argv)
{
    const struct origin origin = origin_of(argv[1]);
    for (int i = 3; i < argc; i++) {
        make_up(s, atoll(argv[i]));
        print_state(s);
        TRY(checkpoint_write(s, argv[0], &origin, atoll(argv[2])));
    }
    return ok();
}

static void print_warning(const char *text)
{
    fprintf(stderr, "warning: %s\n", text);
}

static struct error resume(struct state *s, int argc, char **argv)
{
    (void)argc;
    bool found;
    const struct origin origin = origin_of(argv[1]);
    TRY(checkpoint_resume(s, argv[0], &origin, 0, &found, print_warning));
    if (found)
        print_state(s);
    else
        printf("none\n");
    return ok();
}

static struct error read_all(struct state *s, int argc, char **argv)
{
    const struct origin origin = origin_of(argv[0]);
    make_up(s, 1000);
    for (int i = 1; i < argc; i++) {
        uint32_t before = state_hash(s);
        struct error e = checkpoint_read(s, argv[i], &origin);
        if (e.code != ERROR_NONE)
            printf("refused %d, %s: %s\n", e.code, before == state_hash(s) ? "unchanged" : "CHANGED", e.text);
        else
            print_state(s);
    }
    return ok();
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int least;
        struct error (*run)(struct state *s, int argc, char **argv);
    } verbs[] = {{"write", 4, write_all}, {"resume", 2, resume}, {"read", 2, read_all}};
    struct error e = error_input("usage: checkpoint write|resume|read ...");
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (argc < 2 + verbs[i].least || strcmp(argv[1], verbs[i].name) != 0)
            continue;
        struct state s;
        e = new_state(&s);
        if (e.code == ERROR_NONE)
            e = verbs[i].run(&s, argc - 2, argv + 2);
        state_free(&s);
    }
    return helper_end("checkpoint", e);
}
