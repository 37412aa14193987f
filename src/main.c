/* zoodip: finds the command, prints help, and prints the one error that is returned. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/nearest.h"
#include "cluster/comm.h"
#include "cluster/signals.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "commands/version.h"
#include "device/kinds.h"

static const struct command *const commands[] = {&command_train,    &command_run,     &command_generate,
                                                 &command_quantize, &command_inspect, &command_status,
                                                 &command_bench};
enum { COMMANDS = sizeof commands / sizeof *commands };

static const char *const help_words[] = {"help", "--help", "-h", NULL};
static const char *const version_words[] = {"version", "--version", "-V", NULL};

static void print_help(void)
{
    printf("usage: zoodip COMMAND [ARGUMENTS]\n"
           "\n"
           "Teaches a quantized Stable Diffusion model a new word from a handful of pictures, by forward passes only.\n"
           "\n");
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-10s %s\n", commands[i]->name, commands[i]->meaning);
    printf("\n"
           "  zoodip help COMMAND    options and examples of a command\n"
           "  zoodip version         what this zoodip was built with\n"
           "\n"
           "examples:\n"
           "  mpirun -np 2 zoodip train configs/toybox.json\n"
           "  zoodip generate --model dataset/toybox/model --embedding results/toybox/learned_embeds.safetensors \\\n"
           "      --prompt \"a photo of a sks on the beach\" --output beach.png\n"
           "\n"
           "exit codes: 0 done, 1 failed, 2 bad input, 75 stopped after a checkpoint (run again with --resume)\n");
}

static const struct command *find_command(const char *name)
{
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(name, commands[i]->name) == 0)
            return commands[i];
    return NULL;
}

static bool is_one_of(const char *word, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(word, *words) == 0)
            return true;
    return false;
}

/* -------------------------------------------------------------------------------- help and version */

enum question { NOTHING, HELP, VERSION };

/* A request that needs no ranks. *about: the command that it is about, or NULL. */
static enum question read_question(int argc, char **argv, const struct command **about)
{
    *about = argc > 1 ? find_command(argv[1]) : NULL;
    if (*about)
        return options_ask_help(argc - 1, argv + 1) ? HELP : NOTHING;
    if (argc == 2 && is_one_of(argv[1], version_words))
        return VERSION;
    if (argc == 3 && is_one_of(argv[1], version_words) && options_ask_help(argc - 1, argv + 1))
        return HELP;
    if (argc < 2 || argc > 3 || !is_one_of(argv[1], help_words))
        return NOTHING;
    *about = argc == 3 ? find_command(argv[2]) : NULL;
    bool itself = argc == 2 || is_one_of(argv[2], help_words) || is_one_of(argv[2], version_words);
    return itself || *about ? HELP : NOTHING;
}

/* Once, however many ranks were started. */
static void answer(enum question question, const struct command *about)
{
    if (comm_rank_launched() != 0)
        return;
    if (question == VERSION)
        version_print(stdout, device_kinds());
    else if (about)
        about->help();
    else
        print_help();
}

/* -------------------------------------------------------------------------------- commands */

static struct error unknown_word(const char *word)
{
    bool option = word[0] == '-';
    struct nearest best = {NULL, 0};
    for (int i = 0; i < COMMANDS && !option; i++)
        nearest_try(&best, word, commands[i]->name);
    nearest_try(&best, word, option ? "--help" : "help");
    nearest_try(&best, word, option ? "--version" : "version");
    const char *kind = option ? "option" : "command";
    return best.name ? error_input("%s: no such %s; did you mean %s? See zoodip --help", word, kind, best.name)
                     : error_input("%s: no such %s; see zoodip --help", word, kind);
}

/* The error for a command line that neither names a command nor asks for help correctly. */
static struct error wrong_line(int argc, char **argv)
{
    if (argc < 2)
        return error_input("no command; see zoodip --help");
    if (is_one_of(argv[1], version_words))
        return error_input("%s: unexpected argument; zoodip %s takes none", argv[2], argv[1]);
    if (!is_one_of(argv[1], help_words))
        return unknown_word(argv[1]);
    return argc == 3 ? unknown_word(argv[2])
                     : error_input("%s: unexpected argument; expected zoodip help COMMAND", argv[3]);
}

static struct error run(int argc, char **argv, const struct command *command)
{
    struct comm *comm;
    struct error e = comm_open(&comm, &argc, &argv);
    bool prints = e.code != ERROR_NONE || comm_rank(comm) == 0;
    if (e.code == ERROR_NONE)
        e = command ? command->run(argc - 1, argv + 1, &(struct host){comm, device_kinds()}) : wrong_line(argc, argv);
    if (fflush(stdout) != 0 && e.code == ERROR_NONE)
        e = error_failed("cannot write to the standard output");
    if (e.code != ERROR_NONE && prints)
        log_final(e.code, e.text);
    comm_close(comm);
    return e;
}

int main(int argc, char **argv)
{
    const struct command *command;
    enum question question = read_question(argc, argv, &command);
    if (question != NOTHING) {
        answer(question, command);
        return fflush(stdout) == 0 ? ERROR_NONE : ERROR_FAILED;
    }
    options_set_format(argc, argv);
    signals_guard_files(); // MPI leaves a handler that it finds
    // before MPI starts, which takes long on many nodes: a rank asked to stop meanwhile does so after one step
    if (command && command->stops)
        signals_watch();
    return run(argc, argv, command).code;
}
