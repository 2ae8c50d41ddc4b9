"""BlackVIPPrompter: a transformer that draws trained prompts, for any other client of a service."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted

from .documentation import Documented
from .inputs.reading import OUTPUT_CONFIG, as_output
from .inputs.sources import open_images
from .persistence import SaveableEstimator
from .persistence.arrays import Shared
from .persistence.fields import Maybe, OneOf, Reading, Writing
from .persistence.format import expect
from .persistence.objects import Object
from .prompters.base import Prompter

__all__ = ["BlackVIPPrompter"]


class _Frozen(Shared):
    """A fitted estimator within scikit-learn's `FrozenEstimator`."""

    _inner = Object(SaveableEstimator)

    def check(self, value: Any, file: Writing | Reading, where: str) -> None:
        expect(type(value) is FrozenEstimator, f"its {where} is a {type(value).__name__}; expected a FrozenEstimator")

    def pack_first(self, value: Any, file: Writing, where: str) -> Any:
        return {"frozen": self._inner.pack(value.estimator, file, f"{where}.estimator")}

    def unpack_first(self, packed: Any, file: Reading, where: str) -> Any:
        expect(isinstance(packed, dict) and packed.keys() == {"frozen"}, f"{where} is not a frozen estimator")
        return FrozenEstimator(self._inner.unpack(packed["frozen"], file, f"{where}.estimator"))


class BlackVIPPrompter(SaveableEstimator, Documented, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Transformer that draws trained prompts onto images, for any other client of the service.

    `fit` trains a classifier and bills images. `transform` draws the classifier's prompts and bills nothing.

    Parameters
    ----------
    estimator : BlackVIPClassifier
        The classifier that trains the prompter. To use a fitted classifier, wrap it in
        ``sklearn.frozen.FrozenEstimator``: `fit` then bills nothing, and `transform` works without `fit`.

    Attributes
    ----------
    estimator_ : BlackVIPClassifier
        The fitted classifier.
    coordinator_ : Prompter
        The classifier's prompter, which is all that `transform` needs.
    n_features_in_ : int
        Number of columns if X is a table, else height * width * 3.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X is a table whose columns have names.

    Notes
    -----
    If the classifier found that its prompt does not help (``estimator_.prompt_used_`` is False), images come out
    unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import BlackVIPClassifier, BlackVIPPrompter
    >>> def service(images, class_prompts):  # it believes that bright means daytime
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 20)  # every image is underexposed
    >>> X = rng.uniform(0, 0.3, (40, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> clf = BlackVIPClassifier(service, prompter="basis", head=None, max_queries=2000, random_state=0)
    >>> prompter = BlackVIPPrompter(clf).fit(X, y)
    >>> prompter.transform(X).shape  # grey images have become RGB
    (40, 16, 16, 3)
    >>> bool(prompter.transform(X[y == "day"]).mean() > X[y == "day"].mean() * 255)
    True
    """

    _parameter_constraints = {"estimator": [HasMethods(["fit", "predict"])]}
    saved_parameters = {"estimator": OneOf(_Frozen(), Object(SaveableEstimator, fitted="no"))}
    saved_attributes = {
        "estimator_": Maybe(OneOf(_Frozen(), Object(SaveableEstimator))),
        "_sklearn_output_config": OUTPUT_CONFIG,
    }

    def _finish_loading(self) -> None:
        super()._finish_loading()
        expect(hasattr(self._fitted, "coordinator_"), "it has no fitted classifier")

    def __init__(self, estimator: Any):
        self.estimator = estimator

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> BlackVIPPrompter:
        """Train the classifier, unless it is frozen.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Training images.
        y : array-like of shape (n_images,)
            Class labels.
        **fit_params : dict
            Further arguments of the classifier's `fit`, such as `sample_weight`. With metadata routing enabled, only
            those that it requests.

        Returns
        -------
        self : BlackVIPPrompter
            The fitted transformer.
        """
        if get_config()["enable_metadata_routing"]:
            fit_params = process_routing(self, "fit", **fit_params).estimator.fit
        self.estimator_ = clone(self.estimator).fit(X, y, **fit_params)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Draw prompts onto images, as the service would receive them; bills nothing.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Images of the training images' size, unless `fit` had to resize.

        Returns
        -------
        prompted : ndarray of shape (n_images, height, width, 3), uint8
            RGB. If X has rows of flattened pixels, so has the result: (n_images, height * width * 3).
        """
        check_is_fitted(self)
        X = open_images(X)
        return as_output(self, X, self.coordinator_.prompted_images(X))

    @property
    def _fitted(self) -> Any:
        frozen = isinstance(self.estimator, FrozenEstimator)
        return self.estimator if frozen else getattr(self, "estimator_", None)

    @property
    def coordinator_(self) -> Prompter:
        """The trained prompter."""
        return self._fitted.coordinator_

    @property
    def n_features_in_(self) -> int:
        """The classifier's attribute of the same name."""
        return self._fitted.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        """The classifier's attribute of the same name."""
        return self._fitted.feature_names_in_

    @property
    def _n_features_out(self) -> int:
        return self.coordinator_._n_features_out

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self._fitted, "coordinator_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = not isinstance(self.estimator, FrozenEstimator)
        # Images are uint8, whatever X was.
        tags.transformer_tags.preserves_dtype = []
        return tags

    def get_metadata_routing(self) -> MetadataRouter:
        """Get the metadata routing: arguments of `fit` go to the classifier's `fit`.

        Returns
        -------
        routing : MetadataRouter
            See scikit-learn's user guide on metadata routing.
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=type(self).__name__).add(estimator=self.estimator, method_mapping=mapping)
