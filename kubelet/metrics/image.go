package metrics

import "time"

// sizes of images, in bytes, beyond which they have the label.
var sizes = []struct {
	beyond uint64
	label  string
}{
	{100 << 30, "GT100GB"}, {60 << 30, "60GB-100GB"}, {40 << 30, "40GB-60GB"}, {30 << 30, "30GB-40GB"}, {20 << 30, "20GB-30GB"}, {10 << 30, "10GB-20GB"},
	{5 << 30, "5GB-10GB"}, {1 << 30, "1GB-5GB"}, {500 << 20, "500MB-1GB"}, {100 << 20, "100MB-500MB"}, {10 << 20, "10MB-100MB"}, {0, "0-10MB"},
}

func sizeLabel(bytes uint64) string {
	for _, s := range sizes {
		if bytes > s.beyond {
			return s.label
		}
	}
	return "N/A"
}

// Pulled tells how long an image of so many bytes took.
func (s *Set) Pulled(took time.Duration, bytes uint64) {
	if s != nil {
		s.imagePull.WithLabelValues(sizeLabel(bytes)).Observe(took.Seconds())
	}
}

// ImageCollected tells of an image that was removed for a reason: space or age.
func (s *Set) ImageCollected(reason string) {
	if s != nil {
		s.imagesCollected.WithLabelValues(reason).Inc()
	}
}

// ImageVolume tells of an image that a container has as a volume.
func (s *Set) ImageVolume(err error) {
	switch {
	case s == nil:
		return
	case err == nil:
		s.imageVolumesMounted.Inc()
	default:
		s.imageVolumeErrors.Inc()
	}
	s.imageVolumes.Inc()
}
