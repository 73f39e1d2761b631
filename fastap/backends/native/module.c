/* The Python module: one function, of addresses and numbers that fastap/backends/native/__init__.py has checked. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "ranking.h"

/* solve(scores, wide, targets, type, ignored or None, rankings, items, offsets, threads,
 *       sign, full, epsilon, gain, task_weight, ceiling, chosen_weight, standard_weight,
 *       loss, loss_wide, gradient, takes_part, precision, ranks, value, seconds) -> status; addresses may be 0 */
static PyObject *solve(PyObject *self, PyObject *const *given, Py_ssize_t count)
{
    (void)self;
    if (count != 25) {
        PyErr_Format(PyExc_TypeError, "solve takes 25 arguments, got %zd", count);
        return NULL;
    }
    PyObject *const *next = given;
#define ADDRESS() PyLong_AsVoidPtr(*next++)
#define WHOLE() PyLong_AsLongLong(*next++)
#define REAL() PyFloat_AsDouble(*next++)
    Batch batch = {0};
    batch.scores = ADDRESS();
    batch.wide = (int)WHOLE();
    batch.targets = ADDRESS();
    batch.type = (int)WHOLE();
    batch.ignores = *next != Py_None;
    batch.ignored = batch.ignores ? WHOLE() : (next++, 0);
    batch.rankings = WHOLE();
    batch.items = WHOLE();
    batch.offsets = ADDRESS();
    batch.threads = (int)WHOLE();
    Objective objective = {0};
    objective.sign = (int)WHOLE();
    objective.full = (int)WHOLE();
    objective.epsilon = REAL();
    objective.gain = REAL();
    objective.task_weight = REAL();
    objective.ceiling = REAL();
    objective.chosen_weight = (int)WHOLE();
    objective.standard_weight = (int)WHOLE();
    Outcome outcome = {0};
    outcome.loss = ADDRESS();
    outcome.loss_wide = (int)WHOLE();
    outcome.gradient = ADDRESS();
    outcome.takes_part = ADDRESS();
    outcome.precision = ADDRESS();
    outcome.ranks = ADDRESS();
    outcome.value = ADDRESS();
    double *seconds = ADDRESS();
    if (PyErr_Occurred())
        return NULL;
    Watch watch = {{0}, 0};
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = solve_batch(&batch, &objective, &outcome, seconds ? &watch : NULL);
    Py_END_ALLOW_THREADS
    if (seconds)
        for (int stage = 0; stage < STAGES; stage++)
            seconds[stage] = watch.seconds[stage];
    if (status == NO_MEMORY)
        return PyErr_NoMemory();
    return PyLong_FromLong(status);
}

static PyMethodDef methods[] = {
    {"solve", (PyCFunction)(void (*)(void))solve, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_engine", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__engine(void) { return PyModule_Create(&definition); }
