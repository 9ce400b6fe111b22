package hook

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	v "github.com/peapod/peapod/api/validation"
)

const maxConditions = 64

// Expressions checks the CEL expressions of one object. What an object held before is read with all that the language ever had;
// what is new, with what every server of the cluster has.
type Expressions struct {
	// Params says that the policy has parameters.
	Params bool
	// stored are the expressions of the object that is replaced.
	stored   sets.Set[string]
	compiler plugincel.Compiler
}

// conditions compiles expressions that know no variables of a policy. Making it takes some 10 ms and a few megabytes, so it is made
// for the first expression and shared.
var conditions = sync.OnceValue(func() plugincel.Compiler { return plugincel.NewCompiler(base()) })

func base() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
}

// NewExpressions returns the checker of an object that replaces one with the stored expressions.
func NewExpressions(params bool, stored ...string) *Expressions {
	return &Expressions{Params: params, stored: sets.New(stored...)}
}

// Check compiles an expression, which may use the policy's variables.
func (e *Expressions) Check(x plugincel.ExpressionAccessor, options plugincel.OptionalVariableDeclarations, path *field.Path) field.ErrorList {
	compiler := e.compiler
	if compiler == nil {
		compiler = conditions()
	}
	return failure(compiler.CompileCELExpression(x, options, e.mode(x.GetExpression())), path)
}

func (e *Expressions) mode(expression string) environment.Type {
	if e.stored.Has(expression) {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

// failure words what is wrong with an expression.
func failure(result plugincel.CompilationResult, path *field.Path) field.ErrorList {
	err := result.Error
	switch {
	case err == nil:
		return nil
	case err.Type == cel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, err.Detail)}
	case err.Type == cel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, result.ExpressionAccessor.GetExpression(), err.Detail)}
	case err.Type == cel.ErrorTypeInternal:
		return field.ErrorList{field.InternalError(path, err)}
	}
	return field.ErrorList{field.InternalError(path, fmt.Errorf("unsupported error type: %w", err))}
}

// Conditions checks the conditions that a request must meet beyond the rules. They know no variables.
func (e *Expressions) Conditions(list []admissionv1.MatchCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxConditions {
		errs = append(errs, field.TooMany(path, len(list), maxConditions))
	}
	names := sets.New[string]()
	for i, c := range list {
		at := path.Index(i)
		if expression := strings.TrimSpace(c.Expression); expression == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			x := &matchconditions.MatchCondition{Expression: expression}
			options := plugincel.OptionalVariableDeclarations{HasParams: e.Params, HasAuthorizer: true}
			errs = append(errs, failure(conditions().CompileCELExpression(x, options, e.mode(expression)), at.Child("expression"))...)
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, v.QualifiedName(c.Name, at.Child("name"))...)
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names.Insert(c.Name)
	}
	return errs
}

// Variables checks the variables of a policy, each of which may use those before it, and has what is checked afterwards know them.
func (e *Expressions) Variables(list []admissionv1.Variable, path *field.Path) field.ErrorList {
	if len(list) == 0 {
		return nil
	}
	compiler, err := plugincel.NewCompositedCompiler(base())
	if err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("make a compiler that knows variables: %w", err))}
	}
	e.compiler = compiler
	var errs field.ErrorList
	for i, variable := range list {
		at := path.Index(i)
		if strings.TrimSpace(variable.Name) == "" {
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		} else if !identifier(variable.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), variable.Name, "name is not a valid CEL identifier"))
		}
		if strings.TrimSpace(variable.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
			continue
		}
		x := &validating.Variable{Name: variable.Name, Expression: variable.Expression}
		options := plugincel.OptionalVariableDeclarations{HasParams: e.Params, HasAuthorizer: true}
		errs = append(errs, failure(compiler.CompileAndStoreVariable(x, options, e.mode(variable.Expression)), at.Child("expression"))...)
	}
	return errs
}

var (
	word     = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")
	reserved = sets.New("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
		"let", "loop", "package", "namespace", "return", "var", "void", "while")
)

func identifier(name string) bool { return word.MatchString(name) && !reserved.Has(name) }
