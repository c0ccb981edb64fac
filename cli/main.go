// Package cli is what a person types: the options, the commands, the words of
// the answers. A file holds one noun or one command.
package cli

import (
	"os"
	"slices"

	"github.com/spf13/cobra"

	"evermore/early"
)

// commands are the words that cobra takes when they come first; the actions are
// evermore's own. A script of such a name is called ./health.
var commands = []string{"health", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}

// Main runs evermore as args, the name of the program first, ask for. It returns
// the exit code. first, when not nil, is the start that args asked for; it has
// been made already.
func Main(args []string, first *early.Start) int {
	s := newSettings(programName(args))
	s.starter, s.adopted = starterOf(os.Getenv), adoption(os.Getenv)
	return s.main(args[min(1, len(args)):], os.Getenv, func(s *settings) int { return run(s, first) })
}

func (s *settings) main(args []string, getenv func(string) string, run func(*settings) int) int {
	code := 0
	root := s.root(getenv, &code, run)
	if len(args) > 0 && slices.Contains(commands, args[0]) {
		root.AddCommand(s.healthCommand(getenv, &code), s.completionCommand())
		root.AddCommand(s.actionCommands()...)
		s.offer(root, table)
	}
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		return s.fail(err)
	}
	return code
}

// root is the command without a name: a run.
func (s *settings) root(getenv func(string) string, code *int, run func(*settings) int) *cobra.Command {
	root := &cobra.Command{
		Use:           s.program,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, rest []string) (err error) {
			dashes := cmd.ArgsLenAtDash() == 0
			if len(rest) > 0 && !dashes {
				if a := actionNamed(rest[0]); a != nil {
					*code, err = s.act(a, rest[1:])
					return err
				}
			}
			switch {
			case s.version:
				return s.print(s.versionText())
			case len(rest) == 0 && cmd.Flags().NFlag() == 0 && cmd.ArgsLenAtDash() < 0:
				return s.print(s.helpText())
			}
			if err := s.called(rest, dashes); err != nil {
				return err
			}
			for i := range actionTable {
				if o := &actionTable[i]; s.isGiven(o.name) && s.program != "forever" {
					return usage("%s does not go with a run", o.label())
				}
			}
			one, err := s.foreground(getenv)
			if err != nil {
				return err
			}
			*code = run(one)
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	// Options end at the SCRIPT: what follows is its own.
	root.Flags().SetInterspersed(false)
	s.flags(root.Flags(), table)
	s.flags(root.Flags(), actionTable)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err, table) })
	root.SetHelpFunc(func(*cobra.Command, []string) { s.print(s.helpText()) })
	return root
}

// called takes what stands behind the options.
func (s *settings) called(rest []string, dashes bool) error {
	s.argv, s.form = rest, script
	if dashes {
		s.form = container
	}
	switch {
	case len(rest) == 0 && (s.npm != "" || os.Getenv("EVERMORE_NPM") != ""):
		if !dashes {
			s.argv = []string{"."}
		}
	case len(rest) == 0 && dashes:
		return usage(`no COMMAND after --: an image whose ENTRYPOINT is ["/evermore", "--"] needs a CMD`)
	case len(rest) == 0:
		return usage("no SCRIPT and no -- COMMAND: there is nothing to run")
	case rest[0] == "":
		return usage("the name of what is to run is empty")
	}
	return nil
}

// print writes an answer to stdout, in one piece.
func (s *settings) print(text string) error {
	_, err := os.Stdout.WriteString(text)
	return err
}
