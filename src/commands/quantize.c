#include <stdio.h>

#include "base/log.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "model/quantized.h"

static void print_help(void)
{
    printf("usage: zoodip quantize --model DIR|FILE --output DIR [--bits 8|4] [OPTIONS]\n"
           "\n"
           "Writes a copy of a model with its linear and convolution weights in 8 bits (a scale for each output\n"
           "channel) or 4 bits (a scale and a shift for each group of at most 128 numbers), like optimum-quanto's\n"
           "qint8 and qint4. It is about a quarter or a seventh of an fp32 model's size; every command reads it.\n"
           "\n"
           "  --model DIR|FILE   a diffusers model folder (fp32, fp16 or bf16), or a checkpoint of one in a single\n"
           "                     .safetensors file, of which the copy is a folder\n"
           "  --prediction NAME  what the model predicts, epsilon or v: the copy says so (default: as the model says)\n"
           "  --tokenizer DIR    the tokenizer of the copy (default: the model's, or CLIP's for a checkpoint)\n"
           "  --output DIR       the new folder, which appears when it is complete\n"
           "  --bits N           8 (the default) or 4\n"
           "  --overwrite        the folder may exist and hold a quantized model, which is replaced\n"
           "  --quiet            only warnings and errors on stderr\n"
           "  --log-format F     plain (the default), or json: each line on stderr as an object of JSON\n"
           "\n"
           "examples:\n"
           "  zoodip quantize --model stable-diffusion-v1-5 --output sd15-int8\n"
           "  zoodip quantize --model stable-diffusion-v1-5 --output sd15-int4 --bits 4\n"
           "  zoodip quantize --model CHECKPOINT.safetensors --output sd15-int8\n");
}

static void log_part(const char *part)
{
    log_line("quantizing %s", part);
}

static struct error run(int argc, char **argv, const struct host *host)
{
    struct quantized_source source = {0};
    const char *prediction = NULL, *output = NULL, *none[1];
    int64_t bits = 8;
    bool overwrite = false;
    const struct option table[] = {
        {.name = "model", .text = &source.model},
        {.name = "prediction", .text = &prediction},
        {.name = "tokenizer", .text = &source.tokenizer},
        {.name = "output", .text = &output},
        {.name = "bits", .integer = &bits, .low = 1, .high = 32},
        {.name = "overwrite", .flag = &overwrite},
    };
    TRY(options_read(argc, argv, table, sizeof table / sizeof *table, none, 0));
    struct error e = ok();
    if (comm_rank(host->comm) == 0) {
        e = error_in(prediction_check(prediction), "--prediction");
        source.prediction = prediction_named(prediction);
        if (!source.model || !output)
            e = error_input("quantize needs --model and --output; see zoodip quantize --help");
        else if (bits != 8 && bits != 4)
            e = error_input("--bits: is %lld, expected 8 or 4", (long long)bits);
        else if (e.code == ERROR_NONE)
            e = quantized_write(&source, output, (int)bits, overwrite, log_part);
        if (e.code == ERROR_NONE)
            log_line("wrote %s", output);
    }
    return comm_agree(host->comm, e);
}

const struct command command_quantize = {"quantize", "write a model with weights of 8 or 4 bits", print_help, run,
                                         false};
