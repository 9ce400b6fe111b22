package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// LocalDomain is the registry name of images that come with Peapod. It is never dialled: such an image is present or it
// does not exist.
const LocalDomain = "peapod.local"

// maxReference bounds what we parse; a repository name may have 255 characters, a tag 128, a digest 136.
const maxReference = 1024

// Normalize completes an image name as docker does: "ubuntu" is "docker.io/library/ubuntu:latest". With a digest the tag
// is dropped, the digest being the stronger of the two. The error of what is no reference satisfies
// errdefs.IsInvalidArgument.
func Normalize(name string) (string, error) {
	named, err := parse(name)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

func parse(name string) (reference.Named, error) {
	if len(name) > maxReference {
		return nil, errors.Join(fmt.Errorf("parse image reference: %d characters", len(name)), errdefs.ErrInvalidArgument)
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, &Error{Kind: InvalidReference, text: fmt.Sprintf("failed to parse image reference %q: %v", name, err), err: err}
	}
	return named, nil
}

// splitRefs sorts the names of an image into tags and digests as the CRI reports them. An image known by its ID alone has
// neither.
func splitRefs(refs []string) (tags, digests []string) {
	for _, ref := range refs {
		named, err := reference.ParseAnyReference(ref)
		if err != nil {
			continue
		}
		switch named.(type) {
		case reference.Canonical:
			digests = append(digests, named.String())
		case reference.Tagged:
			tags = append(tags, named.String())
		}
	}
	return tags, digests
}

// digestRef is the name by which the manifest dgst of the repository of named is known.
func digestRef(named reference.Named, dgst digest.Digest) string {
	return named.Name() + "@" + dgst.String()
}

// imageID returns name as an image ID, with its "sha256:", where it is one: 64 hexadecimal digits with or without the
// algorithm.
func imageID(name string) (string, bool) {
	hex := strings.TrimPrefix(name, "sha256:")
	dgst := digest.NewDigestFromEncoded(digest.SHA256, hex)
	return dgst.String(), dgst.Validate() == nil
}
