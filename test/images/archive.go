package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // digests
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageName is the annotation in which tools keep the full name; OCI's own holds the tag alone.
const imageName = "io.containerd.image.name"

// writeArchive writes an image as an OCI archive, its index first, so that a reader learns the digest from the first bytes.
// The file appears whole or not at all.
func writeArchive(path, name string, config ocispec.ImageConfig, layers []layer) error {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return fmt.Errorf("parse image name %s: %w", name, err)
	}
	blobs := map[digest.Digest][]byte{}
	var order []digest.Digest
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		dgst := digest.FromBytes(data)
		if _, ok := blobs[dgst]; !ok {
			order = append(order, dgst)
		}
		blobs[dgst] = data
		return ocispec.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(data))}
	}
	img := ocispec.Image{
		Created:  &epoch,
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   config,
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, layer.diffID)
		manifest.Layers = append(manifest.Layers, put(ocispec.MediaTypeImageLayerGzip, layer.data))
	}
	configData, err := json.Marshal(img)
	if err != nil {
		return fmt.Errorf("encode config: %w", err)
	}
	manifest.Config = put(ocispec.MediaTypeImageConfig, configData)
	manifestData, err := json.Marshal(manifest)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	target := put(ocispec.MediaTypeImageManifest, manifestData)
	target.Annotations = map[string]string{imageName: named.String(), ocispec.AnnotationRefName: named.(reference.Tagged).Tag()}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{target},
	})
	if err != nil {
		return fmt.Errorf("encode index: %w", err)
	}
	return replaceFile(path, func(w io.Writer) error {
		tw := tar.NewWriter(w)
		if err := writeMember(tw, ocispec.ImageIndexFile, index); err != nil {
			return err
		}
		if err := writeMember(tw, ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+ocispec.ImageLayoutVersion+`"}`)); err != nil {
			return err
		}
		for _, dgst := range order {
			if err := writeMember(tw, "blobs/sha256/"+dgst.Encoded(), blobs[dgst]); err != nil {
				return err
			}
		}
		return tw.Close()
	})
}

// layer is a tree as it goes into an archive.
type layer struct {
	data   []byte // compressed
	diffID digest.Digest
}

func compress(t tree) (layer, error) {
	var buf bytes.Buffer
	gz, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return layer{}, fmt.Errorf("compress layer: %w", err)
	}
	sum := digest.Canonical.Digester()
	if err := t.write(io.MultiWriter(gz, sum.Hash())); err != nil {
		return layer{}, err
	}
	if err := gz.Close(); err != nil {
		return layer{}, fmt.Errorf("compress layer: %w", err)
	}
	return layer{buf.Bytes(), sum.Digest()}, nil
}

func writeMember(tw *tar.Writer, name string, data []byte) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), ModTime: epoch, Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := tw.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func replaceFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
