//! The attribute behind `hapa_profiler::profile`; use it from there (feature `macros`).

use proc_macro::TokenStream;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::{Error, Expr, ExprLit, ItemFn, Lit, LitStr, Token, parse_macro_input};

/// Puts a function into a scope of its own name: `#[profile]`, `#[profile("name")]`,
/// `#[profile(memory)]` or `#[profile("name", memory)]`.
///
/// A plain function is as if it began with `scope!("name")`; `memory` also records how the resident
/// memory changes, which takes tens of microseconds. An `async fn` is a future in the scope, right
/// across awaits and threads. Methods work too; their scope is named after the method alone.
#[proc_macro_attribute]
pub fn profile(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = parse_macro_input!(arguments as Arguments);
    let function = parse_macro_input!(item as ItemFn);
    expand(&arguments, function).unwrap_or_else(Error::into_compile_error).into()
}

#[derive(Default)]
struct Arguments {
    name: Option<LitStr>,
    memory: Option<syn::Ident>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut arguments = Self::default();
        while !input.is_empty() {
            match input.parse::<Expr>()? {
                Expr::Lit(ExprLit { lit: Lit::Str(name), .. })
                    if arguments.name.is_none() && arguments.memory.is_none() =>
                {
                    arguments.name = Some(name);
                }
                Expr::Path(path) if path.path.is_ident("memory") && arguments.memory.is_none() => {
                    arguments.memory = path.path.get_ident().cloned();
                }
                other => {
                    let message = "expected `#[profile]`, `#[profile(\"name\")]`, `#[profile(memory)]` or \
                                   `#[profile(\"name\", memory)]`";
                    return Err(Error::new_spanned(other, message));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(arguments)
    }
}

fn expand(arguments: &Arguments, function: ItemFn) -> syn::Result<proc_macro2::TokenStream> {
    let ItemFn { attrs, vis, sig, block } = function;
    let name = match &arguments.name {
        Some(name) => name.value(),
        None => sig.ident.to_string().trim_start_matches("r#").to_owned(),
    };
    if let Some(token) = &sig.constness {
        return Err(Error::new_spanned(
            token,
            "a `const fn` cannot be profiled: it may run in the compiler",
        ));
    }
    let body = if sig.asyncness.is_some() {
        if let Some(memory) = &arguments.memory {
            let message =
                "`memory` is for plain functions: what else runs between two polls would count too";
            return Err(Error::new_spanned(memory, message));
        }
        quote! {
            ::hapa_profiler::ProfileFuture::profiled(async move #block, #name).await
        }
    } else {
        let statements = &block.stmts;
        let guard = format_ident!("_hapa_scope");
        let memory = arguments.memory.as_ref().map(|_| quote!(.with_memory()));
        quote! {
            let #guard = ::hapa_profiler::guard!(#name)#memory;
            #(#statements)*
        }
    };
    Ok(quote! {
        #(#attrs)*
        #vis #sig {
            #body
        }
    })
}
