#include "pipeline/derivative.h"

#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"
#include "zo/checkpoint.h"

/* What auto takes where both are possible. */
static const enum derivative BEST_ON_CPU = DERIVATIVE_DIFFERENCE;

/* -------------------------------------------------------------------------------- the rule */

static enum derivative choose(const struct config *c, const struct derivative_facts *facts, const char **why)
{
    if (facts->checkpoint != DERIVATIVE_AUTO) {
        *why = "as in the checkpoint";
        return facts->checkpoint;
    }
    if (c->zo.sides != 1) {
        *why = "because zo.sides is 2";
        return DERIVATIVE_DIFFERENCE;
    }
    if (!facts->device_has_tangents) {
        *why = "because the device has no tangents";
        return DERIVATIVE_DIFFERENCE;
    }
    *why = "on the CPU";
    return BEST_ON_CPU;
}

/* Is it possible, whoever chose it? */
static struct error check(const struct config *c, const struct derivative_facts *facts, enum derivative chosen)
{
    const char *name = derivative_name(chosen), *there = derivative_name(facts->checkpoint);
    if (facts->checkpoint != DERIVATIVE_AUTO && facts->checkpoint != chosen)
        return config_blame(
            c, "zo.derivative",
            error_input("is %s, but the checkpoints in %.200s are of a run with %s; expected %s or auto, "
                        "another output.dir, or --overwrite",
                        name, c->output.dir, there, there));
    if (chosen != DERIVATIVE_TANGENT)
        return ok();
    if (!facts->device_has_tangents && c->zo.derivative == DERIVATIVE_AUTO)
        return config_blame(c, "zo.derivative",
                            error_input("auto is tangent, as in the checkpoint: the CUDA device has no tangents yet, "
                                        "expected device cpu, or --overwrite"));
    if (!facts->device_has_tangents)
        return config_blame(
            c, "zo.derivative",
            error_input("is tangent: the CUDA device has no tangents yet, expected difference or auto"));
    if (c->zo.sides != 1)
        return config_blame(
            c, "zo.sides",
            error_input("is %lld, but the checkpoints in %.200s are of a run with tangents; expected 1, "
                        "another output.dir, or --overwrite",
                        (long long)c->zo.sides, c->output.dir));
    return ok();
}

struct error derivative_choose(struct config *c, const struct derivative_facts *facts, const char **why)
{
    enum derivative chosen = c->zo.derivative;
    *why = NULL;
    if (chosen == DERIVATIVE_AUTO)
        chosen = choose(c, facts, why);
    TRY(check(c, facts, chosen));
    c->zo.derivative = chosen;
    return ok();
}

/* -------------------------------------------------------------------------------- a run's */

struct error derivative_of_run(const char *run, enum derivative *derivative)
{
    char folder[PATH_SIZE], *recipe;
    *derivative = DERIVATIVE_AUTO;
    TRY(path_join(folder, run, "checkpoints"));
    TRY(checkpoint_recipe(folder, &recipe));
    if (recipe)
        *derivative = recipe_derivative(recipe);
    memory_free(recipe);
    return ok();
}

/* Rank 0. Checkpoints that an --overwrite has given up count no more. */
static struct error find_checkpoint(const struct config *c, enum start start, enum derivative *derivative)
{
    *derivative = DERIVATIVE_AUTO;
    if (start != START_RESUME || previous_given_up(c->output.dir))
        return ok();
    return derivative_of_run(c->output.dir, derivative);
}

struct error derivative_settle(struct config *config, struct pipeline *p, enum start start, const char **why)
{
    struct comm *all = p->all;
    double lacks = !device_has_tangents(p->device);
    struct derivative_facts facts = {.checkpoint = DERIVATIVE_AUTO};
    TRY(comm_agree(all, comm_rank(all) == 0 ? find_checkpoint(config, start, &facts.checkpoint) : ok()));
    TRY(comm_broadcast(all, &facts.checkpoint, sizeof facts.checkpoint, 0));
    TRY(comm_sum(all, &lacks, 1));
    facts.device_has_tangents = lacks == 0;
    return comm_agree(all, derivative_choose(config, &facts, why));
}

void derivative_log(const struct config *c, const char *why)
{
    const char *name = derivative_name(c->zo.derivative);
    if (why)
        log_line("zo.derivative: auto takes %s, %s", name, why);
    else
        log_line("zo.derivative: %s", name);
}
