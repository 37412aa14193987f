#include "pipeline/derivative.h"

#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"
#include "zo/checkpoint.h"

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
    *why = facts->tangents_pay ? "which take less time in 8 bits" : "on the CPU";
    return facts->tangents_pay ? DERIVATIVE_TANGENT : DERIVATIVE_DIFFERENCE;
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
    if (c->quant.tangents == 0 && chosen == facts->checkpoint)
        c->quant.tangents = facts->tangents;
    return ok();
}

int tangent_bits(const struct config *c, const struct pipeline *p)
{
    bool codes = p->most_bits == 8 && device_has_codes(p->device);
    bool eight = c->quant.tangents == 8 || (c->quant.tangents == 0 && codes);
    return eight && c->zo.derivative == DERIVATIVE_TANGENT ? 8 : 32;
}

/* -------------------------------------------------------------------------------- a run's */

/* What the newest intact checkpoint in the folder says, if there is one. */
static struct error find_facts(const char *run, struct derivative_facts *facts)
{
    char folder[PATH_SIZE], *recipe;
    facts->checkpoint = DERIVATIVE_AUTO;
    TRY(path_join(folder, run, "checkpoints"));
    TRY(checkpoint_recipe(folder, &recipe));
    if (recipe) {
        facts->checkpoint = recipe_derivative(recipe);
        facts->tangents = recipe_tangents(recipe);
    }
    memory_free(recipe);
    return ok();
}

struct error derivative_of_run(const char *run, enum derivative *derivative)
{
    struct derivative_facts facts;
    struct error e = find_facts(run, &facts);
    *derivative = facts.checkpoint;
    return e;
}

/* Rank 0. Checkpoints that an --overwrite has given up count no more. */
static struct error find_checkpoint(const struct config *c, enum start start, struct derivative_facts *facts)
{
    if (start != START_RESUME || previous_given_up(c->output.dir))
        return ok();
    return find_facts(c->output.dir, facts);
}

static bool tangents_pay(const struct config *c, const struct pipeline *p)
{
    bool eight = c->quant.tangents == 0 || c->quant.tangents == 8;
    return eight && p->most_bits == 8 && device_tangents_pay(p->device, p->unet_config.channels[0]);
}

struct error derivative_settle(struct config *config, struct pipeline *p, enum start start, const char **why)
{
    struct comm *all = p->all;
    double lacks[] = {!device_has_tangents(p->device), !tangents_pay(config, p)};
    struct derivative_facts facts = {.checkpoint = DERIVATIVE_AUTO};
    TRY(comm_agree(all, comm_rank(all) == 0 ? find_checkpoint(config, start, &facts) : ok()));
    TRY(comm_broadcast(all, &facts, sizeof facts, 0));
    TRY(comm_sum(all, lacks, 2));
    facts.device_has_tangents = lacks[0] == 0;
    facts.tangents_pay = lacks[1] == 0;
    return comm_agree(all, derivative_choose(config, &facts, why));
}

static void log_tangents(const struct config *c, const struct pipeline *p)
{
    int bits = tangent_bits(c, p);
    if (bits == 8 && !device_has_codes(p->device))
        log_warning(
            "%s", config_blame(c, "quant.tangents",
                               error_input("8 takes floats here: %s has no products of 8 bits", device_name(p->device)))
                      .text);
    else if (c->quant.tangents == 0)
        log_line("quant.tangents: auto takes %d bits", bits);
    else
        log_line("quant.tangents: %d bits%s", bits, c->quant.tangents == 16 ? " for 16, on the CPU" : "");
}

void derivative_log(const struct config *c, const struct pipeline *p, const char *why)
{
    const char *name = derivative_name(c->zo.derivative);
    if (why)
        log_line("zo.derivative: auto takes %s, %s", name, why);
    else
        log_line("zo.derivative: %s", name);
    if (c->zo.derivative == DERIVATIVE_TANGENT)
        log_tangents(c, p);
}
