/* A machine for bytecode with sixteen registers, written twice: as a loop around a `switch`, and as a table of
 * functions that are called through pointers. Both run the same program and must come to the same end. */
#include "kernel.h"

enum opcode {
    LOAD, MOVE, ADD, ADD_CONSTANT, MULTIPLY, SHIFT_RIGHT, XOR, AND, BRANCH_IF_LESS, BRANCH_IF_ZERO, JUMP, HALT,
};

struct instruction {
    uint8_t opcode, to, a, b;
    int32_t operand;
};

struct machine {
    uint32_t registers[16];
    const struct instruction *next;
    uint64_t steps;
};

/* The lengths of Collatz's sequences from 1 to below the number in register 1, mixed into register 0. */
static const struct instruction PROGRAM[] = {
    {LOAD, 2, 0, 0, 1},             /*  0: start = 1 */
    {MOVE, 3, 2, 0, 0},             /*  1: n = start */
    {LOAD, 4, 0, 0, 0},             /*  2: length = 0 */
    {LOAD, 5, 0, 0, 2},             /*  3: two = 2 */
    {BRANCH_IF_LESS, 0, 3, 5, 8},   /*  4: if n < two goto 13 */
    {LOAD, 6, 0, 0, 1},             /*  5: odd = 1 */
    {AND, 6, 6, 3, 0},              /*  6: odd &= n */
    {ADD_CONSTANT, 4, 4, 0, 1},     /*  7: length += 1 */
    {BRANCH_IF_ZERO, 0, 6, 0, 10},  /*  8: if odd == 0 goto 19 */
    {LOAD, 7, 0, 0, 3},             /*  9: three = 3 */
    {MULTIPLY, 3, 3, 7, 0},         /* 10: n *= three */
    {ADD_CONSTANT, 3, 3, 0, 1},     /* 11: n += 1 */
    {JUMP, 0, 0, 0, -9},            /* 12: goto 4 */
    {XOR, 0, 0, 4, 0},              /* 13: result ^= length */
    {LOAD, 7, 0, 0, 16777619},      /* 14: prime = FNV's */
    {MULTIPLY, 0, 0, 7, 0},         /* 15: result *= prime */
    {ADD_CONSTANT, 2, 2, 0, 1},     /* 16: start += 1 */
    {BRANCH_IF_LESS, 0, 2, 1, -17}, /* 17: if start < limit goto 1 */
    {HALT, 0, 0, 0, 0},             /* 18 */
    {SHIFT_RIGHT, 3, 3, 0, 1},      /* 19: n >>= 1 */
    {JUMP, 0, 0, 0, -17},           /* 20: goto 4 */
};

/* Branches count from the instruction behind them. */
static void run_switch(struct machine *machine) {
    uint32_t *r = machine->registers;
    for (;;) {
        const struct instruction *i = machine->next++;
        machine->steps++;
        switch ((enum opcode)i->opcode) {
        case LOAD: r[i->to] = (uint32_t)i->operand; break;
        case ADD: r[i->to] = r[i->a] + r[i->b]; break;
        case ADD_CONSTANT: r[i->to] = r[i->a] + (uint32_t)i->operand; break;
        case MULTIPLY: r[i->to] = r[i->a] * r[i->b]; break;
        case SHIFT_RIGHT: r[i->to] = r[i->a] >> (i->operand & 31); break;
        case XOR: r[i->to] = r[i->a] ^ r[i->b]; break;
        case AND: r[i->to] = r[i->a] & r[i->b]; break;
        case MOVE: r[i->to] = r[i->a]; break;
        case BRANCH_IF_LESS: machine->next += r[i->a] < r[i->b] ? i->operand : 0; break;
        case BRANCH_IF_ZERO: machine->next += r[i->a] == 0 ? i->operand : 0; break;
        case JUMP: machine->next += i->operand; break;
        case HALT: return;
        }
    }
}

typedef int handler(struct machine *machine, const struct instruction *i);

#define HANDLER(name, statement)                                                    \
    static int name(struct machine *machine, const struct instruction *i) {         \
        uint32_t *r = machine->registers;                                           \
        statement;                                                                  \
        return 1;                                                                   \
    }

HANDLER(load, r[i->to] = (uint32_t)i->operand)
HANDLER(add, r[i->to] = r[i->a] + r[i->b])
HANDLER(add_constant, r[i->to] = r[i->a] + (uint32_t)i->operand)
HANDLER(multiply, r[i->to] = r[i->a] * r[i->b])
HANDLER(shift_right, r[i->to] = r[i->a] >> (i->operand & 31))
HANDLER(xor, r[i->to] = r[i->a] ^ r[i->b])
HANDLER(and, r[i->to] = r[i->a] & r[i->b])
HANDLER(move, r[i->to] = r[i->a])
HANDLER(branch_if_less, machine->next += r[i->a] < r[i->b] ? i->operand : 0)
HANDLER(branch_if_zero, machine->next += r[i->a] == 0 ? i->operand : 0)
HANDLER(jump, (void)r; machine->next += i->operand)
HANDLER(halt, (void)r; (void)i; return 0)

static handler *const HANDLERS[] = {
    [LOAD] = load, [ADD] = add, [ADD_CONSTANT] = add_constant, [MULTIPLY] = multiply, [SHIFT_RIGHT] = shift_right,
    [XOR] = xor, [AND] = and, [MOVE] = move, [BRANCH_IF_LESS] = branch_if_less, [BRANCH_IF_ZERO] = branch_if_zero,
    [JUMP] = jump, [HALT] = halt,
};

static void run_table(struct machine *machine) {
    const struct instruction *i;
    do {
        i = machine->next++;
        machine->steps++;
    } while (HANDLERS[i->opcode](machine, i));
}

#define LIMIT 20000

COMPUTE_RUN int32_t run(void) {
    struct machine by_switch = {.registers = {[1] = LIMIT}, .next = PROGRAM}, by_table = by_switch;
    run_switch(&by_switch);
    run_table(&by_table);
    uint64_t checksum[2] = {by_switch.registers[0], by_table.steps};
    output_write(checksum, sizeof checksum);
    return by_switch.registers[0] == by_table.registers[0] && by_switch.steps == by_table.steps ? 0 : 1;
}
