# A perceptron on generated points: a training in another language, unchanged but for its line of JSON per report.
#
#   awk -v seed=1 -v epochs=10 -v averaged=true -v shuffled=true -v checkpoint=FOLDER -f perceptron.awk

# A random number in (0, 1), by Park and Miller 1988: the generators of the various awks differ.
function uniform() {
    state = (16807 * state) % 2147483647
    return state / 2147483647
}

# Points of two classes; one label in ten is wrong.
function make_points(    row, column, sum) {
    state = 20011
    for (column = 1; column <= COLUMNS; column++) truth[column] = uniform() - 0.5
    for (row = 1; row <= ROWS; row++) {
        sum = 0
        for (column = 1; column <= COLUMNS; column++) {
            x[row, column] = uniform() - 0.5
            sum += x[row, column] * truth[column]
        }
        label[row] = (sum > 0 ? 1 : -1) * (uniform() < 0.1 ? -1 : 1)
    }
}

# The sum over the columns of a point.
function score(row, weights,    column, sum) {
    for (column = 1; column <= COLUMNS; column++) sum += x[row, column] * weights[column]
    return sum
}

# The share of points on the wrong side.
function error(first, last,    row, wrong) {
    for (row = first; row <= last; row++) {
        if (averaged == "true") wrong += (score(row, total) * label[row] <= 0)
        else wrong += (score(row, weight) * label[row] <= 0)
    }
    return wrong / (last - first + 1)
}

# One epoch: each point once, in an order that is shuffled further every time.
function learn(    step, row, other, swap, column) {
    for (step = TRAINING; shuffled == "true" && step > 1; step--) {
        other = 1 + int(uniform() * step)
        swap = order[step]; order[step] = order[other]; order[other] = swap
    }
    for (step = 1; step <= TRAINING; step++) {
        row = order[step]
        if (score(row, weight) * label[row] <= 0)
            for (column = 1; column <= COLUMNS; column++) weight[column] += label[row] * x[row, column]
        for (column = 1; column <= COLUMNS; column++) total[column] += weight[column]
    }
}

# Writes a checkpoint beside the last one and renames it, so that a kill leaves a whole one.
function save(epoch,    column, step) {
    printf "%d %d", epoch, state > (file ".new")
    for (column = 1; column <= COLUMNS; column++) printf " %.17g %.17g", weight[column], total[column] > (file ".new")
    for (step = 1; step <= TRAINING; step++) printf " %d", order[step] > (file ".new")
    print "" > (file ".new")
    close(file ".new")
    system("mv '" file ".new' '" file "'")
}

# Returns the epochs that an earlier attempt has trained.
function load(    line, part, column, step) {
    if ((getline line < file) <= 0) return 0
    split(line, part, " ")
    state = part[2]
    for (column = 1; column <= COLUMNS; column++) { weight[column] = part[1 + 2 * column]; total[column] = part[2 + 2 * column] }
    for (step = 1; step <= TRAINING; step++) order[step] = part[2 + 2 * COLUMNS + step]
    return part[1]
}

# A checkpoint follows its report: a kill between the two costs an epoch, but no report.
BEGIN {
    COLUMNS = 20; TRAINING = 300; VALIDATION = 500; ROWS = 1300
    file = checkpoint "/perceptron"
    make_points()
    for (step = 1; step <= TRAINING; step++) order[step] = step
    state = seed + 1
    for (column = 1; column <= COLUMNS; column++) { weight[column] = uniform() - 0.5; total[column] = 0 }
    for (epoch = load() + 1; epoch <= epochs; epoch++) {
        learn()
        printf "{\"report\": %d, \"validation_error\": %.6f, \"test_error\": %.6f}\n", epoch,
            error(TRAINING + 1, TRAINING + VALIDATION), error(TRAINING + VALIDATION + 1, ROWS)
        fflush()
        save(epoch)
    }
}
