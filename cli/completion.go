package cli

import (
	"bytes"
	"strings"

	"github.com/spf13/cobra"
)

var shells = []string{"bash", "zsh", "fish"}

// completionCommand prints the script that lets a shell complete a command line
// by calling evermore.
func (s *settings) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "completion",
		Short:     "Print the completion script of a shell",
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("completion is for one shell: %s", strings.Join(shells, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var b bytes.Buffer
			switch root := cmd.Root(); args[0] {
			case "bash":
				err = root.GenBashCompletionV2(&b, true)
			case "zsh":
				err = root.GenZshCompletion(&b)
			case "fish":
				err = root.GenFishCompletion(&b, true)
			default:
				err = usage("unknown shell %q: use %s", args[0], strings.Join(shells, ", "))
			}
			if err != nil {
				return err
			}
			return s.print(b.String())
		},
	}
}

// offer tells cobra what may stand behind each option of a table.
func (s *settings) offer(cmd *cobra.Command, table []option) {
	for i := range table {
		complete := table[i].complete
		if complete == nil {
			complete = words()
		}
		if table[i].arg == "" {
			continue
		}
		err := cmd.RegisterFlagCompletionFunc(table[i].name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return complete()
		})
		if err != nil {
			panic(err) // the option is not a flag of cmd
		}
	}
}
