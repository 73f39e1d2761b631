/* The Python module: two functions, of addresses and numbers that fastap/backends/native/__init__.py has checked. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "batch.h"

#define ADDRESS() PyLong_AsVoidPtr(*next++)
#define WHOLE() PyLong_AsLongLong(*next++)
#define REAL() PyFloat_AsDouble(*next++)

/* Of what both functions begin with: scores, wide, targets, distinct, type, ignored or None, rankings, items, offsets,
 * threads. */
#define OF_BATCH 10

static PyObject *const *read_batch(PyObject *const *next, Batch *batch)
{
    batch->scores = ADDRESS();
    batch->wide = (int)WHOLE();
    batch->targets = ADDRESS();
    batch->distinct = WHOLE();
    batch->type = (int)WHOLE();
    batch->ignores = *next != Py_None;
    batch->ignored = batch->ignores ? WHOLE() : (next++, 0);
    batch->rankings = WHOLE();
    batch->items = WHOLE();
    batch->offsets = ADDRESS();
    batch->threads = (int)WHOLE();
    return next;
}

static int is_count(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted)
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, given);
    return given == wanted;
}

static PyObject *result(int status) { return status == NO_MEMORY ? PyErr_NoMemory() : PyLong_FromLong(status); }

/* solve(batch..., first, second, full, epsilon, gain, task_weight, ceiling, measure, parameter, k, loss, loss_wide,
 *       gradient, takes_part, ranks, value, seconds) -> status; addresses may be 0 */
static PyObject *solve(PyObject *self, PyObject *const *next, Py_ssize_t count)
{
    (void)self;
    if (!is_count(count, OF_BATCH + 17))
        return NULL;
    Batch batch = {0};
    next = read_batch(next, &batch);
    Objective objective = {0};
    objective.first = (int)WHOLE();
    objective.second = (int)WHOLE();
    objective.full = (int)WHOLE();
    objective.epsilon = REAL();
    objective.gain = REAL();
    objective.task_weight = REAL();
    objective.ceiling = REAL();
    objective.measure = (int)WHOLE();
    objective.parameter = REAL();
    objective.k = WHOLE();
    Output output = {0};
    output.loss = ADDRESS();
    output.loss_wide = (int)WHOLE();
    output.gradient = ADDRESS();
    output.takes_part = ADDRESS();
    output.ranks = ADDRESS();
    output.value = ADDRESS();
    double *seconds = ADDRESS();
    if (PyErr_Occurred())
        return NULL;
    Watch watch = {{0}, 0};
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = solve_batch(&batch, &objective, &output, seconds ? &watch : NULL);
    Py_END_ALLOW_THREADS
    if (seconds)
        for (int stage = 0; stage < STAGES; stage++)
            seconds[stage] = watch.seconds[stage];
    return result(status);
}

/* measure(batch..., weight, wide, best, precision, positives, negatives) -> status; all but precision may be 0 */
static PyObject *measure(PyObject *self, PyObject *const *next, Py_ssize_t count)
{
    (void)self;
    if (!is_count(count, OF_BATCH + 6))
        return NULL;
    Batch batch = {0};
    next = read_batch(next, &batch);
    Measure wanted = {0};
    wanted.weight = ADDRESS();
    wanted.wide = (int)WHOLE();
    wanted.best = WHOLE();
    wanted.precision = ADDRESS();
    wanted.positives = ADDRESS();
    wanted.negatives = ADDRESS();
    if (PyErr_Occurred())
        return NULL;
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = measure_batch(&batch, &wanted);
    Py_END_ALLOW_THREADS
    return result(status);
}

static PyMethodDef methods[] = {
    {"solve", (PyCFunction)(void (*)(void))solve, METH_FASTCALL, NULL},
    {"measure", (PyCFunction)(void (*)(void))measure, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

/* What is shared by calls is the crew of parallel.c, which has its own locks. */
static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil /* not in the limited API of 3.10, nor does a Python without the lock load such a module */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_engine", .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__engine(void) { return PyModuleDef_Init(&definition); }
