package job

import (
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// indexes is a set of completion indexes.
type indexes map[int]bool

// parseIndexes reads the API's form, such as "1,3-5,7". What is malformed or not below completions is left out: the Job may
// have been scaled down since it was written.
func parseIndexes(text string, completions int) indexes {
	out := indexes{}
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil || a < 0 {
			continue
		}
		b := a
		if ranged {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := a; i <= min(b, completions-1); i++ {
			out[i] = true
		}
	}
	return out
}

// String is the API's form: runs of three and more are told by their ends.
func (x indexes) String() string {
	all := make([]int, 0, len(x))
	for i := range x {
		all = append(all, i)
	}
	slices.Sort(all)
	var out []string
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1] == all[j]+1 {
			j++
		}
		switch {
		case j == i:
			out = append(out, strconv.Itoa(all[i]))
		case j == i+1:
			out = append(out, strconv.Itoa(all[i]), strconv.Itoa(all[j]))
		default:
			out = append(out, strconv.Itoa(all[i])+"-"+strconv.Itoa(all[j]))
		}
		i = j + 1
	}
	return strings.Join(out, ",")
}

// indexOf is the Pod's completion index, -1 if it has none.
func indexOf(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// countOf is the number in an annotation, 0 if there is none.
func countOf(p *corev1.Pod, annotation string) int {
	n, err := strconv.Atoi(p.Annotations[annotation])
	if err != nil {
		return 0
	}
	return n
}

// failures is how often the Pod's index had failed before the Pod was made, and how many failures more were ignored.
func failures(p *corev1.Pod) (counted, ignored int) {
	return countOf(p, batchv1.JobIndexFailureCountAnnotation), countOf(p, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func isIndexed(j *batchv1.Job) bool {
	return ptr.Deref(j.Spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}
