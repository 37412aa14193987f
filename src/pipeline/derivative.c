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
    if (facts->tangents_pay)
        *why = facts->tangent_bits == 8 ? "which take less time in 8 bits" : "which take less time in 16 bits";
    else
        *why = facts->gpu ? "because tangents in 32 bits take more time" : "on the CPU";
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
    if (chosen == DERIVATIVE_TANGENT && c->zo.sides != 1)
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

/* If the run takes them. */
static int bits_of_tangents(const struct config *c, const struct pipeline *p)
{
    bool halves = device_has_halves(p->device), codes = p->most_bits == 8 && device_has_codes(p->device);
    int asked = c->quant.tangents ? (int)c->quant.tangents : halves ? 16 : codes ? 8 : 32;
    return asked == 16 && !halves ? 32 : asked;
}

int tangent_bits(const struct config *c, const struct pipeline *p)
{
    return c->zo.derivative == DERIVATIVE_TANGENT ? bits_of_tangents(c, p) : 32;
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

struct error derivative_settle(struct config *config, struct pipeline *p, enum start start, const char **why)
{
    struct comm *comm = p->comm;
    int bits = bits_of_tangents(config, p);
    double dear = !device_tangents_pay(p->device, bits, p->most_bits, p->unet_config.channels[0]);
    struct derivative_facts facts = {.checkpoint = DERIVATIVE_AUTO};
    TRY(comm_agree(comm, comm_rank(comm) == 0 ? find_checkpoint(config, start, &facts) : ok()));
    TRY(comm_broadcast(comm, &facts, sizeof facts, 0));
    TRY(comm_sum(comm, &dear, 1));
    facts.tangents_pay = dear == 0;
    facts.tangent_bits = bits;
    facts.gpu = device_has_halves(p->device);
    return comm_agree(comm, derivative_choose(config, &facts, why));
}

enum derivative derivative_expected(const struct config *config, const struct pipeline *p)
{
    int bits = bits_of_tangents(config, p);
    const struct derivative_facts facts = {
        .checkpoint = DERIVATIVE_AUTO,
        .tangents_pay = device_tangents_pay(p->device, bits, p->most_bits, p->unet_config.channels[0])};
    const char *why;
    return choose(config, &facts, &why);
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
        log_line("quant.tangents: %d bits%s", bits, c->quant.tangents == 16 && bits == 32 ? " for 16, on the CPU" : "");
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
