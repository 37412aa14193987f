/* zoodip: looks up the subcommand and prints the one error that comes back. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cluster/comm.h"
#include "cluster/signals.h"
#include "commands/commands.h"
#include "commands/version.h"

static const struct command {
    const char *name, *meaning;
    struct error (*run)(int argc, char **argv, struct comm *comm);
    bool stops; /* when it is asked to, with all saved */
} commands[] = {
    {"train", "learn a word from a folder of pictures, all ranks on it", command_train, true},
    {"run", "learn many words, a queue of subjects that groups of ranks share out", command_run, true},
    {"generate", "draw pictures from a prompt, with learned words", command_generate, false},
    {"quantize", "write a model with weights of 8 or 4 bits", command_quantize, false},
    {"inspect", "show what a model, file, checkpoint, config or result holds", command_inspect, false},
    {"bench", "measure evaluations per second, step time and memory", command_bench, false},
};

static void print_help(void)
{
    printf("usage: zoodip COMMAND [ARGUMENTS]\n"
           "\n"
           "Teaches a quantized Stable Diffusion model one new word from a handful of pictures, with forward passes "
           "only.\n"
           "\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].meaning);
    printf("\n"
           "  zoodip COMMAND --help    options and examples of a command\n"
           "  zoodip --version         what this zoodip was built with\n"
           "\n"
           "examples:\n"
           "  mpirun -np 2 zoodip train configs/toybox.json\n"
           "  zoodip generate --model dataset/toybox/model --embedding results/toybox/learned_embeds.safetensors \\\n"
           "      --prompt \"a photo of a sks on the beach\" --output beach.png\n"
           "\n"
           "exit codes: 0 done, 1 failed, 2 bad input, 75 stopped after a checkpoint (run again with --resume)\n");
}

/* The one that the command line names, or NULL. */
static const struct command *find_command(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (argc > 1 && strcmp(argv[1], commands[i].name) == 0)
            return &commands[i];
    return NULL;
}

static struct error dispatch(int argc, char **argv, struct comm *comm)
{
    if (argc < 2)
        return error_input("no command; see zoodip --help");
    const struct command *command = find_command(argc, argv);
    return command ? command->run(argc - 1, argv + 1, comm)
                   : error_input("%s: no such command; see zoodip --help", argv[1]);
}

static int asks_for(int argc, char **argv, const char *a, const char *b)
{
    return argc == 2 && (strcmp(argv[1], a) == 0 || strcmp(argv[1], b) == 0);
}

int main(int argc, char **argv)
{
    const struct command *command = find_command(argc, argv);
    // before MPI comes up, which takes long on many nodes: whoever is asked meanwhile stops behind its first step
    if (command && command->stops)
        signals_watch();
    struct comm *comm;
    struct error e = comm_open(&comm, &argc, &argv);
    if (e.code != ERROR_NONE) {
        fprintf(stderr, "zoodip: %s\n", e.text);
        return e.code;
    }
    int rank = comm_rank(comm);
    if (asks_for(argc, argv, "--help", "-h")) {
        if (rank == 0)
            print_help();
    } else if (asks_for(argc, argv, "--version", "-V")) {
        if (rank == 0)
            print_version(stdout);
    } else {
        e = dispatch(argc, argv, comm);
    }
    if (fflush(stdout) != 0 && e.code == ERROR_NONE)
        e = error_failed("cannot write to the standard output");
    if (e.code != ERROR_NONE && rank == 0)
        fprintf(stderr, "zoodip: %s\n", e.text);
    comm_close(comm);
    return e.code;
}
