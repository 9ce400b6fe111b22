package framework

// Point is where plugins are asked, by upstream's name.
type Point string

// The points that this scheduler has. What upstream calls PreScore is a part of Score, and PreBind is there for Pods with claims only.
const (
	PreFilter  Point = "PreFilter"
	Filtering  Point = "Filter"
	PostFilter Point = "PostFilter"
	Scoring    Point = "Score"
	Reserve    Point = "Reserve"
	PreBind    Point = "PreBind"
	Bind       Point = "Bind"
)

// String is upstream's name of such an answer.
func (v Verdict) String() string {
	switch v {
	case Fits:
		return "Success"
	case Busy:
		return "Unschedulable"
	case Wrong:
		return "UnschedulableAndUnresolvable"
	}
	return "Error"
}

// Outcome is the verdict on what either works or fails.
func Outcome(err error) Verdict {
	if err != nil {
		return Failed
	}
	return Fits
}
