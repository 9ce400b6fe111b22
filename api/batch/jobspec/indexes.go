package jobspec

import (
	"fmt"
	"strconv"
	"strings"
)

// Interval is a run of indexes, both ends included.
type Interval struct{ First, Last int32 }

// Indexes is an ascending list of intervals that do not touch each other's indexes.
type Indexes []Interval

// Len is the number of indexes.
func (l Indexes) Len() int32 {
	var n int32
	for _, i := range l {
		n += i.Last - i.First + 1
	}
	return n
}

// Overlap returns the lowest index that is in both lists.
func (l Indexes) Overlap(other Indexes) (index int32, found bool) {
	for i, j := 0, 0; i < len(l) && j < len(other); {
		a, b := l[i], other[j]
		switch {
		case a.Last < b.First:
			i++
		case b.Last < a.First:
			j++
		default:
			return max(a.First, b.First), true
		}
	}
	return 0, false
}

// ParseIndexes reads the form in which a Job keeps indexes, such as "1,3-5,7", all below completions. Of a text that is
// malformed nothing is returned but the error, which is worded as in the API.
func ParseIndexes(text string, completions int32) (Indexes, error) {
	if text == "" {
		return nil, nil
	}
	var list Indexes
	for part := range strings.SplitSeq(text, ",") {
		interval, err := parseInterval(part, completions)
		if err != nil {
			return nil, err
		}
		if n := len(list); n > 0 && list[n-1].Last >= interval.First {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", list[n-1].Last, interval.First)
		}
		list = append(list, interval)
	}
	return list, nil
}

func parseInterval(text string, completions int32) (Interval, error) {
	limits := strings.Split(text, "-")
	if len(limits) > 2 {
		return Interval{}, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	var ends [2]int32
	for i, limit := range limits {
		n, err := strconv.ParseInt(limit, 10, 64)
		if err != nil {
			return Interval{}, fmt.Errorf("cannot convert string to integer for index: %q", limit)
		}
		if n >= int64(completions) {
			return Interval{}, fmt.Errorf("too large index: %q", limit)
		}
		ends[i] = int32(n)
	}
	if len(limits) == 1 {
		return Interval{ends[0], ends[0]}, nil
	}
	if ends[0] >= ends[1] {
		return Interval{}, fmt.Errorf("non-increasing order, previous: %d, current: %d", ends[0], ends[1])
	}
	return Interval{ends[0], ends[1]}, nil
}
