// Package image is `peapod image`.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/runtime/image"
)

// New is the verb with its own verbs.
func New(t *terminal.Terminal) *cobra.Command {
	cmd := &cobra.Command{
		Use: "image", Short: "Pull, import, list and remove images on this node",
		Long: `Pull, import, list and remove images on this node. The server or agent must run.`,
	}
	cmd.AddCommand(pull(t), imports(t), list(t), remove(t))
	return cmd
}

// connected gives run a connection to the running server's image service, whose socket only root can open.
func connected(t *terminal.Terminal, run func(context.Context, grpc.ClientConnInterface) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		i, err := t.Instance()
		if err != nil {
			return err
		}
		conn, err := terminal.Connect(i)
		if err != nil {
			return err
		}
		if conn == nil {
			return fmt.Errorf("no %[1]s runs with data directory %[2]s: start it with 'peapod %[1]s'", i.Program(), i.DataDir)
		}
		defer conn.Close()
		if err := run(c.Context(), conn); err != nil {
			// The status code and its wrapping are the wire's; the message is the server's.
			if s, ok := status.FromError(err); ok {
				return errors.New(s.Message())
			}
			return err
		}
		return nil
	}
}

func pull(t *terminal.Terminal) *cobra.Command {
	cmd := &cobra.Command{Use: "pull NAME", Short: "Pull an image from its registry", Args: terminal.Named("one image", false)}
	var credentials string
	cmd.Flags().StringVar(&credentials, "creds", "", "USER:PASSWORD for the registry; - reads it from standard input")
	cmd.RunE = func(c *cobra.Command, args []string) error {
		auth, err := readCredentials(t.In, credentials)
		if err != nil {
			return err
		}
		return connected(t, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			r, err := runtimeapi.NewImageServiceClient(conn).PullImage(ctx, &runtimeapi.PullImageRequest{
				Image: &runtimeapi.ImageSpec{Image: args[0]}, Auth: auth})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(t.Out, r.ImageRef)
			return err
		})(c, args)
	}
	return cmd
}

func readCredentials(in io.Reader, flag string) (*runtimeapi.AuthConfig, error) {
	if flag == "" {
		return nil, nil
	}
	if flag == "-" {
		b, err := io.ReadAll(io.LimitReader(in, 64<<10))
		if err != nil {
			return nil, fmt.Errorf("read credentials: %w", err)
		}
		flag = strings.TrimSpace(string(b))
	}
	user, password, ok := strings.Cut(flag, ":")
	if !ok {
		return nil, errors.New("--creds: must be USER:PASSWORD")
	}
	return &runtimeapi.AuthConfig{Username: user, Password: password}, nil
}

func imports(t *terminal.Terminal) *cobra.Command {
	cmd := &cobra.Command{
		Use: "import FILE...", Short: "Import archives made by docker save, or in OCI layout", Args: terminal.Named("an archive", true),
		Long: `Import archives made by 'docker save', or in OCI layout; - is standard input. Imported images are pinned: they are
never removed to free space.`,
	}
	var name string
	cmd.Flags().StringVar(&name, "name", "", "name for the image, where the archive has none")
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return connected(t, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			for _, file := range args {
				if err := importOne(ctx, t, conn, file, name); err != nil {
					return fmt.Errorf("import %s: %w", file, err)
				}
			}
			return nil
		})(c, args)
	}
	return cmd
}

func importOne(ctx context.Context, t *terminal.Terminal, conn grpc.ClientConnInterface, file, name string) error {
	in := t.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	images, err := image.ImportOver(ctx, conn, in, name)
	if err != nil {
		return err
	}
	for _, i := range images {
		for _, tag := range i.RepoTags {
			if _, err := fmt.Fprintln(t.Out, tag); err != nil {
				return err
			}
		}
	}
	return nil
}

func list(t *terminal.Terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the images on this node", Args: cobra.NoArgs,
		RunE: connected(t, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			r, err := runtimeapi.NewImageServiceClient(conn).ListImages(ctx, &runtimeapi.ListImagesRequest{})
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(t.Out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tIMAGE ID\tSIZE\tPINNED")
			for _, line := range lines(r.Images) {
				fmt.Fprintln(w, line)
			}
			return w.Flush()
		}),
	}
}

// lines returns what list prints of images: one line a name, by name.
func lines(images []*runtimeapi.Image) []string {
	var out []string
	for _, i := range images {
		names := i.RepoTags
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		for _, name := range names {
			out = append(out, fmt.Sprintf("%s\t%s\t%s\t%t", name, shortID(i.Id), humanSize(i.Size), i.Pinned))
		}
	}
	slices.Sort(out)
	return out
}

func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 13)]
}

func humanSize(bytes uint64) string {

	switch {
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1fMi", float64(bytes)/(1<<20))
	case bytes >= 1<<10:
		return fmt.Sprintf("%.1fKi", float64(bytes)/(1<<10))
	}
	return fmt.Sprint(bytes)
}

func remove(t *terminal.Terminal) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME...", Aliases: []string{"rm"}, Short: "Remove images from this node", Args: terminal.Named("an image", true),
		RunE: func(c *cobra.Command, args []string) error {
			return connected(t, func(ctx context.Context, conn grpc.ClientConnInterface) error {
				client := runtimeapi.NewImageServiceClient(conn)
				for _, name := range args {
					spec := &runtimeapi.ImageSpec{Image: name}
					// Removing what is not there is no error in CRI; whoever types a name wants to know.
					if s, err := client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec}); err != nil {
						return err
					} else if s.Image == nil {
						return fmt.Errorf("image %q is not on this node", name)
					}
					if _, err := client.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec}); err != nil {
						return err
					}
				}
				return nil
			})(c, args)
		},
	}
}
