package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const pathEnv = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// image is one archive to make.
type image struct {
	name  string // as a manifest says it
	file  string
	build func(*kitchen) (ocispec.ImageConfig, []tree, error)
}

// images lists what can be made. hello comes with Peapod; the others stand in for the images of the examples, under the
// same names and with the same manners, made of Debian's packages.
var images = []image{
	{"peapod.local/hello:latest", "hello.tar", (*kitchen).hello},
	{"ubuntu", "ubuntu.tar", (*kitchen).ubuntu},
	{"busybox", "busybox.tar", (*kitchen).busybox},
	{"nginx:1.14.2", "nginx-1.14.2.tar", nginx("1.14.2")},
	{"nginx:1.20.2", "nginx-1.20.2.tar", nginx("1.20.2")},
	{"myapp:1.0", "myapp-1.0.tar", webApp("8080", "myapp 1.0")},
	{"kiamol/ch02-hello-kiamol", "hello-kiamol.tar", webApp("80", "Hello from the kiamol stand-in")},
	{"gentledev10/spring-boot-docker", "spring-boot-docker.tar", webApp("8080", "8080 container")},
	{"gentledev10/ubuntu-curl", "ubuntu-curl.tar", (*kitchen).ubuntuCurl},
	{"copier:1.0", "copier-1.0.tar", client("copier")},
	{"webhook:1.0", "webhook-1.0.tar", client("webhook")},
	{"csidriver:1.0", "csidriver-1.0.tar", client("csidriver")},
	{"dradriver:1.0", "dradriver-1.0.tar", client("dradriver")},
}

// kitchen makes images; what several share is made once.
type kitchen struct {
	debian debian
	source string // root of this module
	base   tree   // ubuntu
	box    tree   // busybox
	nginx  tree   // what nginx adds to ubuntu
	shared map[string]layer
}

// compress makes layers of the trees. Of several, the lowest is one that several images share: it is made once.
func (k *kitchen) compress(trees []tree) ([]layer, error) {
	var layers []layer
	for i, t := range trees {
		key := ""
		if i == 0 && t["usr/bin/busybox"].data != nil {
			key = "busybox"
		} else if i == 0 && t["usr/bin/bash"].data != nil {
			key = "ubuntu"
		}
		l, ok := k.shared[key]
		if !ok {
			var err error
			if l, err = compress(t); err != nil {
				return nil, err
			}
			if key != "" {
				if k.shared == nil {
					k.shared = map[string]layer{}
				}
				k.shared[key] = l
			}
		}
		layers = append(layers, l)
	}
	return layers, nil
}

func (k *kitchen) hello() (ocispec.ImageConfig, []tree, error) {
	program, err := k.goProgram("./cmd/hello", "-trimpath")
	if err != nil {
		return ocispec.ImageConfig{}, nil, err
	}
	t := tree{}
	t.dir("tmp", 0o1777)
	t.file("etc/passwd", 0o644, "root:x:0:0:root:/:/nonexistent\nhello:x:65532:65532:hello:/:/nonexistent\n")
	t.file("etc/group", 0o644, "root:x:0:\nhello:x:65532:\n")
	t.file("hello", 0o755, string(program))
	// What is mounted over in each Pod: where an image lacks it, it has to be made in every container's own layer, which is
	// a sixth of the work of starting one.
	for _, dir := range []string{"dev", "proc", "sys", "var/run/secrets/kubernetes.io/serviceaccount"} {
		t.dir(dir, 0o755)
	}
	for _, file := range []string{"etc/hostname", "etc/hosts", "etc/resolv.conf"} {
		t.file(file, 0o644, "")
	}
	return ocispec.ImageConfig{
		User:         "65532:65532",
		Env:          []string{"PATH=/"},
		Entrypoint:   []string{"/hello"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}, []tree{t}, nil
}

func (k *kitchen) ubuntuBase() (tree, error) {
	if k.base == nil {
		t := newRoot()
		t.file("etc/os-release", 0o644, "NAME=\"Stand-in\"\nID=debian\nPRETTY_NAME=\"Stand-in for ubuntu made of Debian packages\"\n")
		if err := k.debian.add(t, nil, "bash", "dash", "coreutils", "findutils", "grep", "sed", "procps", "hostname"); err != nil {
			return nil, err
		}
		t.link("usr/bin/sh", "dash")
		k.base = t
	}
	return k.base, nil
}

func (k *kitchen) ubuntu() (ocispec.ImageConfig, []tree, error) {
	base, err := k.ubuntuBase()
	return ocispec.ImageConfig{Env: []string{pathEnv}, Cmd: []string{"/bin/bash"}}, []tree{base}, err
}

func (k *kitchen) ubuntuCurl() (ocispec.ImageConfig, []tree, error) {
	base, err := k.ubuntuBase()
	if err != nil {
		return ocispec.ImageConfig{}, nil, err
	}
	top := tree{}
	if err := k.debian.add(top, []tree{base}, "curl"); err != nil {
		return ocispec.ImageConfig{}, nil, err
	}
	return ocispec.ImageConfig{Env: []string{pathEnv}, Cmd: []string{"/bin/bash"}}, []tree{base, top}, nil
}

func (k *kitchen) busyboxBase() (tree, error) {
	if k.box != nil {
		return k.box, nil
	}
	t := newRoot()
	if err := k.debian.add(t, nil, "busybox-static"); err != nil {
		return nil, err
	}
	program := t["usr/bin/busybox"].data
	names, err := applets(program)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, ok := t["usr/bin/"+name]; !ok && !strings.Contains(name, "dpkg") {
			t.link("usr/bin/"+name, "busybox")
		}
	}
	k.box = t
	return t, nil
}

// applets asks busybox for the commands that it knows.
func applets(program []byte) ([]string, error) {
	dir, err := os.MkdirTemp("", "busybox-")
	if err != nil {
		return nil, fmt.Errorf("list applets: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "busybox")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		return nil, fmt.Errorf("list applets: %w", err)
	}
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list applets: %w", err)
	}
	return strings.Fields(string(out)), nil
}

func (k *kitchen) busybox() (ocispec.ImageConfig, []tree, error) {
	box, err := k.busyboxBase()
	return ocispec.ImageConfig{Env: []string{pathEnv}, Cmd: []string{"sh"}}, []tree{box}, err
}

func nginx(version string) func(*kitchen) (ocispec.ImageConfig, []tree, error) {
	return func(k *kitchen) (ocispec.ImageConfig, []tree, error) {
		base, err := k.ubuntuBase()
		if err != nil {
			return ocispec.ImageConfig{}, nil, err
		}
		if k.nginx == nil {
			added := tree{}
			if err := k.debian.add(added, []tree{base}, "nginx"); err != nil {
				return ocispec.ImageConfig{}, nil, err
			}
			k.nginx = added
		}
		top := maps.Clone(k.nginx)
		for name := range top {
			if strings.HasPrefix(name, "etc/nginx/") || strings.HasPrefix(name, "var/www") {
				delete(top, name)
			}
		}
		top.file("etc/nginx/nginx.conf", 0o644, nginxConf)
		top.file("etc/nginx/mime.types", 0o644, "types {\n  text/html html htm;\n  text/css css;\n  text/plain txt;\n  application/json json;\n}\n")
		top.file("etc/nginx/conf.d/default.conf", 0o644, nginxSite)
		top.file("usr/share/nginx/html/index.html", 0o644, "<!DOCTYPE html>\n<title>Welcome to nginx!</title>\n<h1>Welcome to nginx!</h1>\n")
		top.dir("var/lib/nginx", 0o755)
		top.link("var/log/nginx/access.log", "/dev/stdout")
		top.link("var/log/nginx/error.log", "/dev/stderr")
		return ocispec.ImageConfig{
			Env:          []string{pathEnv, "NGINX_VERSION=" + version},
			Cmd:          []string{"nginx", "-g", "daemon off;"},
			ExposedPorts: map[string]struct{}{"80/tcp": {}},
			StopSignal:   "SIGQUIT",
		}, []tree{base, top}, nil
	}
}

const nginxConf = `user www-data;
worker_processes 1;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  access_log /var/log/nginx/access.log;
  sendfile on;
  keepalive_timeout 65;
  include /etc/nginx/conf.d/*.conf;
}
`

const nginxSite = `server {
  listen 80;
  listen [::]:80;
  location / {
    root /usr/share/nginx/html;
    index index.html index.htm;
  }
}
`

// webApp answers every request on port with text. It has busybox beneath, for a shell and wget.
func webApp(port, text string) func(*kitchen) (ocispec.ImageConfig, []tree, error) {
	return func(k *kitchen) (ocispec.ImageConfig, []tree, error) {
		box, err := k.busyboxBase()
		if err != nil {
			return ocispec.ImageConfig{}, nil, err
		}
		program, err := k.goProgram("./test/images/web", "-trimpath")
		if err != nil {
			return ocispec.ImageConfig{}, nil, err
		}
		top := tree{}
		top.file("usr/local/bin/web", 0o755, string(program))
		return ocispec.ImageConfig{
			Env:          []string{pathEnv},
			Entrypoint:   []string{"/usr/local/bin/web", port, text},
			ExposedPorts: map[string]struct{}{port + "/tcp": {}},
		}, []tree{box, top}, nil
	}
}

// client is a program of this module that uses Kubernetes' libraries, and nothing else. It is built without -trimpath, which would
// compile those a second time: its bytes name the folders it was built in.
func client(name string) func(*kitchen) (ocispec.ImageConfig, []tree, error) {
	return func(k *kitchen) (ocispec.ImageConfig, []tree, error) {
		program, err := k.goProgram("./test/images/" + name)
		if err != nil {
			return ocispec.ImageConfig{}, nil, err
		}
		t := tree{}
		t.file(name, 0o755, string(program))
		return ocispec.ImageConfig{User: "65532:65532", Entrypoint: []string{"/" + name}}, []tree{t}, nil
	}
}

// goProgram builds a static program of this module.
func (k *kitchen) goProgram(pkg string, flags ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "build-")
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", pkg, err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "program")
	args := append([]string{"build", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", path}, flags...)
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = k.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", pkg, err)
	}
	return data, nil
}
