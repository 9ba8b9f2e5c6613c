// Loads a compose file with the library that `docker compose` loads it with, all profiles on, and says what is wrong.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(
		os.Args[1:2], cli.WithEnvFiles(os.Args[2:]...), cli.WithDotEnv, cli.WithProfiles([]string{"*"}),
	)
	if err == nil {
		_, err = options.LoadProject(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
