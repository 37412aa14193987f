// Names of kernels for messages. Kernels may be static, which dladdr cannot see, so the program reads its own symbol
// table (System V ABI, chapter 4, "Symbol Table"), and only to print a message.
#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#include "block.h"

static std::vector<char> own_file()
{
    std::vector<char> bytes;
    FILE *f = fopen("/proc/self/exe", "rb");
    if (!f)
        return bytes;
    fseek(f, 0, SEEK_END);
    bytes.resize((size_t)ftell(f));
    rewind(f);
    if (fread(bytes.data(), 1, bytes.size(), f) != bytes.size())
        bytes.clear();
    fclose(f);
    return bytes;
}

// Where the program, the first object listed, was loaded.
static int load_address(struct dl_phdr_info *info, size_t, void *address)
{
    *(uintptr_t *)address = info->dlpi_addr;
    return 1;
}

static std::string mangled_name(uintptr_t kernel)
{
    std::vector<char> file = own_file();
    uintptr_t base = 0;
    dl_iterate_phdr(load_address, &base);
    if (file.size() < sizeof(ElfW(Ehdr)))
        return "";
    const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)file.data();
    const ElfW(Shdr) *sections = (const ElfW(Shdr) *)(file.data() + head->e_shoff);
    for (int s = 0; s < head->e_shnum; s++) {
        if (sections[s].sh_type != SHT_SYMTAB)
            continue;
        const char *names = file.data() + sections[sections[s].sh_link].sh_offset;
        const ElfW(Sym) *symbols = (const ElfW(Sym) *)(file.data() + sections[s].sh_offset);
        for (size_t i = 0; i < sections[s].sh_size / sizeof(*symbols); i++)
            if (symbols[i].st_value + base == kernel && ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC)
                return names + symbols[i].st_name;
    }
    return "";
}

const char *kernel_name(const void *kernel)
{
    static std::string name;
    std::string mangled = mangled_name((uintptr_t)kernel);
    int status = 0;
    char *plain = abi::__cxa_demangle(mangled.c_str(), NULL, NULL, &status);
    name = mangled.empty() ? "(without a name)" : status == 0 ? plain : mangled;
    free(plain);
    return name.c_str();
}
