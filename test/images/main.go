// Command images makes container images as OCI archives, always the same bytes from the same input: the hello image that
// Peapod carries, and stand-ins for the images that the examples and tests name, made of Debian packages (apt-get and
// dpkg-deb do the work; nothing of this machine's own file system goes in).
//
//	go run ./test/images -out DIR [-cache DIR] [NAME...]
//
// Names are as in a manifest ("ubuntu", "nginx:1.14.2"); none means all but hello. -out takes one file an image;
// -cache keeps downloaded packages.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

const helloName = "peapod.local/hello:latest"

func main() {
	out := flag.String("out", "", "folder for the archives")
	cache := flag.String("cache", "", "folder that keeps downloaded packages (default: <out>/packages)")
	source := flag.String("source", ".", "root of the Go module")
	list := flag.Bool("list", false, "print the names and files of all images and exit")
	flag.Parse()
	if *list {
		for _, img := range images {
			fmt.Println(img.name, img.file)
		}
		return
	}
	if err := run(*out, *cache, *source, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(out, cache, source string, names []string) error {
	if out == "" {
		return fmt.Errorf("no -out given")
	}
	if cache == "" {
		cache = filepath.Join(out, "packages")
	}
	for _, dir := range []string{out, cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(images, func(i image) bool { return i.name == name }) {
			return fmt.Errorf("no image %s; -list shows those that there are", name)
		}
	}
	k := &kitchen{debian: debian{cache: cache}, source: source}
	for _, img := range images {
		if len(names) == 0 && img.name == helloName || len(names) > 0 && !slices.Contains(names, img.name) {
			continue
		}
		config, trees, err := img.build(k)
		if err != nil {
			return fmt.Errorf("make %s: %w", img.name, err)
		}
		layers, err := k.compress(trees)
		if err != nil {
			return fmt.Errorf("make %s: %w", img.name, err)
		}
		path := filepath.Join(out, img.file)
		if err := writeArchive(path, img.name, config, layers); err != nil {
			return err
		}
		fmt.Println(img.name, path)
	}
	return nil
}
